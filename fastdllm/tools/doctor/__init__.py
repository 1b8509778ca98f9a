"""What would stop runs on this machine, one line each with the fix.

Changes nothing.
"""
