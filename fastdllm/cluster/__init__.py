"""SLURM and sites as data: what a cluster offers, the state of jobs, the environment on nodes.

Knows no run and imports no torch.
"""
