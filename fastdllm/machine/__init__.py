"""This process and its machine: processors, GPUs, memory, the hub's cache, the commit.

Knows no models and no runs.
"""
