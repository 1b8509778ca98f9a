"""Histogram of confidences: how sure the model was of the tokens that it committed.

Fine where thresholds lie. Imports nothing heavy.
"""

from __future__ import annotations

from bisect import bisect_right

# A confidence belongs to the bin whose lower edge is the last one that it reaches.
EDGES = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99, 0.999, 1.0)
BINS = len(EDGES) - 1


def bin_of(confidence: float) -> int:
    """Index of a confidence's bin; 1, and what rounding puts above it, belongs to the last one."""
    return min(bisect_right(EDGES, confidence), BINS) - 1
