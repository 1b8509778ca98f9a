"""What state each run is in: from its files, its locks and SLURM's queue.

Changes nothing.
"""
