"""The one decoder (decoder.py), its loop over a list of requests (loop.py), and likelihoods.

Knows no tokenizer, task or file.
"""
