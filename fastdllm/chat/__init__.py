"""The terminal: lines in, answers that fill in place, commands. Decodes nothing itself.

Only line_input.py needs prompt-toolkit, and only where a terminal can edit lines.
"""
