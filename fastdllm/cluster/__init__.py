"""SLURM and sites as data: what is on offer, how jobs stand, the environment of nodes.

Knows no run and imports no torch.
"""
