"""Numbers made from summaries: intervals, paired comparisons, costs, verdicts.

Reads no configuration and imports no torch.
"""
