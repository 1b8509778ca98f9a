"""One Snakemake call: which runs it makes, in which order and in which jobs.

Decodes nothing and imports no torch.
"""
