"""The record of a finished run: summary.json, the files beside it, the bits of its items.

Knows no model and no SLURM; imports no torch.
"""
