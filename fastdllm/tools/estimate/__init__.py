"""How many hours runs will take, from chunks that were decoded before.

Imports no torch.
"""
