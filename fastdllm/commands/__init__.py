"""What a person types: one module per command, which parses its options, calls and prints.

Holds no logic that another front end needs.
"""
