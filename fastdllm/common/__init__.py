"""What every package may use: errors, files, locks, the terminal, the folders of a project.

Knows no model, task or run.
"""
