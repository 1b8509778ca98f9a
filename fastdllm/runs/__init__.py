"""One run at work: from its spec over stored answers and signals to its score.

Knows neither Snakemake nor the other runs of the grid.
"""
