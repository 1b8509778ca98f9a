"""The record of a finished run: summary.json, the files beside it, the bits of its items.

Knows no model and no SLURM; imports no torch. `fastdllm.results()` is the table of all runs
(frames.py).
"""
