"""Tasks as lm-eval knows them: task files, planned requests, prompts, answer text, metrics.

Decodes nothing and knows no run.
"""
