"""How probable it is that a true claim is confirmed, and how many items that takes.

Against one config it is computed exactly: of n items as many differ as a binomial says, and of
these another binomial falls to the config. Against several it is simulated, with a fixed seed, from
the patterns in which items came out in all configs at once. On plain numbers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Literal

from fastdllm.statistics.claim_tests import LEVEL
from fastdllm.statistics.intervals import Z_95, binomial_tail, score_statistic

# Beyond this many standard deviations a binomial has less than 1e-8.
FAR = 6.0
MOST_ITEMS = 10_000_000
SAMPLES = 4000
SEED = 0

Kind = Literal["noninferior", "equivalent", "better"]
# Of an item, config - control for each control: -1, 0 or 1.
Pattern = tuple[int, ...]


def paired_power(
    kind: Kind, n: int, *, discordance: float, difference: float = 0.0, margin: float = 0.0
) -> float:
    """Return the power of a claim against one config.

    Args:
        discordance: the share of items that are right in one of both only.
        difference: the true one, config - control.

    Raises:
        ValueError: the difference is larger than the share of items that differ.
    """
    if not abs(difference) <= discordance <= 1:
        raise ValueError(f"a difference of {difference} needs as large a share that differs")
    if discordance == 0:
        return float(_is_confirmed(kind, n, 0, 0, margin))
    of_config = (1 + difference / discordance) / 2
    spread = FAR * math.sqrt(n * discordance) + FAR**2
    first = max(0, math.floor(n * discordance - spread))
    last = min(n, math.ceil(n * discordance + spread))
    power = 0.0
    for differing in range(first, last + 1):
        share = _binomial_share(differing, n, discordance)
        if share > 1e-12:
            power += share * _power_given(kind, n, differing, of_config, margin)
    return power


def frontier_power(n: int, shares: Mapping[Pattern, float], *, margin: float) -> float:
    """Return the power of being non-inferior to each of several configs, by simulation.

    Args:
        shares: of items by how they come out against all configs; they add up to 1.
    """
    import numpy as np

    patterns = np.array(list(shares), dtype=int)
    drawn = np.random.default_rng(SEED).multinomial(n, list(shares.values()), size=SAMPLES)
    scores: dict[tuple[int, int], bool] = {}

    def holds(only_control: int, only_config: int) -> bool:
        key = only_control, only_config
        if key not in scores:
            scores[key] = _is_confirmed("noninferior", n, *key, margin)
        return scores[key]

    gained, lost = drawn @ (patterns == 1), drawn @ (patterns == -1)
    hits = sum(
        all(holds(int(a), int(b)) for a, b in zip(minus, plus, strict=True))
        for minus, plus in zip(lost, gained, strict=True)
    )
    return hits / SAMPLES


def with_differences(
    counts: Mapping[Pattern, int], differences: Sequence[float]
) -> dict[Pattern, float]:
    """Return shares of patterns whose true differences are those given, and else as observed.

    Of all such shares they are the nearest to the observed ones (exponential tilting).

    Raises:
        ValueError: a difference is beyond what the patterns allow.
    """
    import numpy as np

    patterns = np.array(list(counts), dtype=float)
    observed = np.array(list(counts.values()), dtype=float)
    wanted, tilt = np.array(differences, dtype=float), np.zeros(len(differences))
    for _ in range(100):
        shares = observed * np.exp(np.clip(patterns @ tilt, -50, 50))
        shares /= shares.sum()
        means = shares @ patterns
        missing = wanted - means
        if np.abs(missing).max() < 1e-10:
            return dict(zip(counts, shares.tolist(), strict=True))
        spread = (patterns * shares[:, None]).T @ patterns - np.outer(means, means)
        # The pseudo-inverse: of controls that never differ, one direction is without effect.
        tilt += np.linalg.pinv(spread) @ missing
    raise ValueError(f"no shares of the observed patterns have the differences {differences}")


def items_for(power_of: Callable[[int], float], wanted: float) -> int | None:
    """Return the number of items that gives a wanted power; None if ten million do not."""
    enough = 16
    while power_of(enough) < wanted:
        enough *= 2
        if enough > MOST_ITEMS:
            return None
    too_few = enough // 2
    while enough - too_few > max(1, enough // 2000):
        middle = (enough + too_few) // 2
        too_few, enough = (too_few, middle) if power_of(middle) >= wanted else (middle, enough)
    return enough


def _is_confirmed(kind: Kind, n: int, only_control: int, only_config: int, margin: float) -> bool:
    if kind == "better":
        return binomial_tail(only_config, only_control + only_config) < LEVEL
    is_above = score_statistic(n, only_control, only_config, -margin) > Z_95
    if kind == "noninferior":
        return is_above
    return is_above and score_statistic(n, only_control, only_config, margin) < -Z_95


def _power_given(kind: Kind, n: int, differing: int, of_config: float, margin: float) -> float:
    """Return the power where `differing` items differ."""
    from scipy.special import bdtr, bdtrc

    def first(is_met: Callable[[int], bool]) -> int:
        """Return the fewest items of the config for which it is met; one more if none does."""
        low, high = 0, differing + 1
        while low < high:
            middle = (low + high) // 2
            low, high = (low, middle) if is_met(middle) else (middle + 1, high)
        return low

    one_sided: Kind = "better" if kind == "better" else "noninferior"
    least = first(lambda k: _is_confirmed(one_sided, n, differing - k, k, margin))
    power = float(bdtrc(least - 1, differing, of_config)) if least > 0 else 1.0
    if kind == "equivalent":
        beyond = first(lambda k: score_statistic(n, differing - k, k, margin) >= -Z_95)
        at_most = float(bdtr(beyond - 1, differing, of_config)) if beyond > 0 else 0.0
        power = max(0.0, power + at_most - 1)
    return power


def _binomial_share(k: int, n: int, share: float) -> float:
    if share == 1:
        return float(k == n)
    ways = math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)
    return math.exp(ways + k * math.log(share) + (n - k) * math.log1p(-share))
