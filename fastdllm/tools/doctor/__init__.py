"""What would stop runs on this machine, a line each with the fix.

Changes nothing.
"""
