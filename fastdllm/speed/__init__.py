"""Speeds of configs, measured in turn: sittings, and the ratios that they give.

What is measured and how it is estimated: docs/speed.md.
"""
