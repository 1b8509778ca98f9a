"""The page, plots and tables, made from published summaries.

Decodes and scores nothing; imports no torch.
"""
