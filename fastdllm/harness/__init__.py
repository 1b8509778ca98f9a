"""lm-eval's own command line and `simple_evaluate`, with our engine as their model.

Decodes by the engine of runs; the loop, the prompts and the metrics are others'.
"""
