"""The network: configuration, weights, tokenizer, and its plain and fused forms.

Knows nothing of diffusion, passes or policies.
"""
