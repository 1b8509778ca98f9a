"""One run: its spec, its stored answers, its reaction to signals, and its score.

Knows neither Snakemake nor the other runs of the grid.
"""
