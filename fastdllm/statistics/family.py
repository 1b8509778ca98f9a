"""Many comparisons on the same items: p-values corrected for their number and their likeness.

Runs of one grid are right and wrong on nearly the same items, so 40 comparisons are far fewer than
40 independent ones, and Holm's correction would hide what is there. Here the dependence is that of
the items: without a difference, an item on which a pair differs could as well have fallen to the
other run, for all pairs at once. Imports NumPy in functions, so that status starts quickly.
"""

from __future__ import annotations

from collections.abc import Sequence

# Of the signs of all items: enough to tell 0.049 from 0.051, mostly.
FLIPS = 10_000
FEWEST_FLIPS = 1_000
# Of comparisons x items x flips, so that a thousand comparisons still take a second.
MOST_PRODUCTS = 4e9
SEED = 17


def max_t(n: int, pairs: Sequence[tuple[int, int]], *, seed: int = SEED) -> list[float]:
    """Return a p-value per comparison, corrected over all of them (step-down max-T).

    If those below 0.05 are called differences, the probability that any of them is wrong is 5 % at
    most, whatever the dependence. The same numbers for the same arguments.

    Args:
        n: items. pairs: of each comparison, the items that are right in one of both runs only, as
            bits (`records.bits`).

    Source: P. H. Westfall and S. S. Young, Resampling-Based Multiple Testing (1993), algorithm
    2.8; signs for items: R. A. Fisher, The Design of Experiments (1935), section 21.
    """
    import numpy as np

    if not pairs:
        return []
    differences = np.array([_differences(n, *pair) for pair in pairs], dtype=np.float32)
    differing = np.abs(differences).sum(axis=1)
    observed = np.abs(differences.sum(axis=1)) / np.sqrt(np.maximum(differing, 1))
    differences = differences[:, differences.any(axis=0)]
    order = np.argsort(observed, kind="stable")
    scaled = (differences / np.sqrt(np.maximum(differing, 1))[:, None])[order]
    flips = int(min(FLIPS, max(FEWEST_FLIPS, MOST_PRODUCTS / max(1, differences.size))))
    random = np.random.default_rng(seed)
    exceeding = np.zeros(len(pairs))
    # In pieces, as a thousand comparisons times ten thousand flips need not be there at once.
    piece = max(1, min(flips, int(2e7 / max(1, *scaled.shape))))
    for start in range(0, flips, piece):
        size = (scaled.shape[1], min(piece, flips - start))
        signs = random.integers(0, 2, size=size, dtype=np.int8).astype(np.float32) * 2 - 1
        # In each row the largest of it and of all less conspicuous comparisons.
        largest = np.maximum.accumulate(np.abs(scaled @ signs), axis=0)
        exceeding += (largest >= observed[order][:, None] - 1e-4).sum(axis=1)
    p_values = np.empty(len(pairs))
    # Of a less conspicuous comparison the p-value is never smaller.
    p_values[order] = np.maximum.accumulate(((exceeding + 1) / (flips + 1))[::-1])[::-1]
    return [1.0 if not count else float(p) for p, count in zip(p_values, differing, strict=True)]


def _differences(n: int, only_a: int, only_b: int) -> list[int]:
    """Return -1, 0 or 1 per item."""
    lost, gained = f"{only_a:0{n}b}", f"{only_b:0{n}b}"
    return [(b == "1") - (a == "1") for a, b in zip(lost, gained, strict=True)]
