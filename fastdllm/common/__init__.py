"""What every package may use: errors, files, locks, progress on a terminal, project folders.

Knows no model, task or run.
"""
