"""Code that a model wrote, run apart: no network, no home folder, and limits on all it may use.

Knows no tasks and no models; imports no torch.
"""
