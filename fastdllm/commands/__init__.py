"""The commands: one module each, which parses options, calls the other packages and prints.

Holds no logic that another front end needs.
"""
