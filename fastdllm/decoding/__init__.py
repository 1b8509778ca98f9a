"""The one decoding loop (loop.py), and likelihoods.

Knows no tokenizer, task or file.
"""
