"""This process and its machine: processors, GPUs, memory, the hub's cache, the commit.

Knows no model that is loaded and no run.
"""
