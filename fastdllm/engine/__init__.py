"""Runs one pass over rows of several sequences against their caches.

Knows nothing of denoising, policies or requests.
"""
