"""The one decoding loop, and likelihoods.

Knows no tokenizer, task or file.
"""
