"""How fast this machine decodes, and how near that is to its limit.

Scores nothing.
"""
