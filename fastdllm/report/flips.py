"""Items that are right under one configuration and wrong under another, for people to read.

The summaries say which items these are; the answers are in results/<run>/samples.jsonl, which stays
on the machine that decoded. Only the lines that are shown are parsed.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastdllm.common.errors import UserError
from fastdllm.common.files import read_json
from fastdllm.common.paths import RESULTS
from fastdllm.records.summary import Summary, unpack_bits
from fastdllm.statistics.comparison import right_only_in, why_not_paired

# Longer questions and answers are truncated; samples.jsonl has them in full.
MOST_CHARACTERS = 900


@dataclass(frozen=True, slots=True)
class Flip:
    """One item; `gained`: wrong in the baseline and right in the other run."""

    item: int
    gained: bool
    question: str
    target: str
    before: str
    after: str
    first_step: int | None
    first_token: int | None


@dataclass(frozen=True, slots=True)
class Flips:
    """The flips of one pair: how many there are, and those shown, or why none can be.

    decoded: the runs that decoded the answers, as `experiment/task/config`.
    """

    gained: int
    lost: int
    shown: tuple[Flip, ...]
    decoded: tuple[str, str]
    why_not: str | None = None


def flipped_items(baseline: Summary, other: Summary) -> tuple[list[int], list[int]]:
    """Return the items gained and lost by `other`; none if the two cannot be paired."""
    if why_not_paired(baseline, other):
        return [], []
    return right_only_in(other, baseline), right_only_in(baseline, other)


def read_flips(
    baseline: Summary, other: Summary, most: int, *, results: Path | str = RESULTS
) -> Flips:
    """Read up to `most` flipped items with both answers, half gained and half lost, in order."""
    gained, lost = flipped_items(baseline, other)
    half = most // 2
    kept_gained = gained[: max(half, most - len(lost))]
    kept_lost = lost[: most - len(kept_gained)]
    wanted = sorted(kept_gained + kept_lost)
    samples, decoded = [], (_decoded(baseline), _decoded(other))
    for summary in (baseline, other):
        try:
            samples.append(_samples(summary, wanted, Path(results)))
        except UserError as error:
            return Flips(len(gained), len(lost), (), decoded, str(error))
    shown = [
        _flip(item, samples[0][item], samples[1][item], gained=item in kept_gained)
        for item in wanted
    ]
    return Flips(len(gained), len(lost), tuple(shown), decoded)


def first_differing_step(a: Mapping[str, Any], b: Mapping[str, Any]) -> int | None:
    """Return the first pass in which two samples did not commit the same tokens; 0: the prefill.

    None if all commits are the same, or were not recorded.
    """
    if not all(sample.get("committed_at") for sample in (a, b)):
        return None
    commits = [set(enumerate(zip(s["committed_at"], s["token_ids"], strict=True))) for s in (a, b)]
    return min((step for _, (step, _) in commits[0] ^ commits[1]), default=None)


def first_differing_token(a: Mapping[str, Any], b: Mapping[str, Any]) -> int | None:
    """Return the position, from 0, of the first token that differs; None if none does."""
    if a.get("token_ids") is None or b.get("token_ids") is None:
        return None
    first, second = a["token_ids"], b["token_ids"]
    for position, (x, y) in enumerate(zip(first, second, strict=False)):
        if x != y:
            return position
    return None if len(first) == len(second) else min(len(first), len(second))


def _decoded(summary: Summary) -> str:
    """Return the name of the run that decoded the answers of a summary, which is its folder too."""
    origin = summary.same_as or summary
    return f"{origin.experiment}/{origin.task}/{origin.config}"


def _samples(summary: Summary, items: Sequence[int], results: Path) -> dict[int, dict[str, Any]]:
    """Return the samples of some items of a run, by their number in the summary's bits.

    Raises:
        UserError: they are not on this machine, or belong to another result of the run.
    """
    origin = summary.same_as or summary
    folder = results / _decoded(summary)
    path = folder / "samples.jsonl"
    if not path.exists():
        raise UserError(f"{path} is not on this machine")
    stored = read_json(folder / "summary.json")
    if not isinstance(stored, dict) or stored.get("fingerprint") != origin.fingerprint:
        raise UserError(f"{path} belongs to another result of the run")
    samples = dict(_lines(path, frozenset(items)))
    bits = unpack_bits(summary.items) if summary.items else []
    if any(i not in samples or samples[i].get("correct") is not bits[i] for i in items):
        raise UserError(f"{path} does not match its summary")
    return samples


def _lines(path: Path, items: frozenset[int]) -> Iterable[tuple[int, dict[str, Any]]]:
    with path.open(encoding="utf-8") as stream:
        for number, line in enumerate(stream):
            if number in items:
                yield number, json.loads(line)


def _flip(item: int, a: Mapping[str, Any], b: Mapping[str, Any], *, gained: bool) -> Flip:
    return Flip(
        item=item,
        gained=gained,
        question=_truncated(str(a["prompt"]), from_end=True),
        target=_truncated(str(a["target"])),
        before=_truncated(str(a["answer"])),
        after=_truncated(str(b["answer"])),
        first_step=first_differing_step(a, b),
        first_token=first_differing_token(a, b),
    )


def _truncated(text: str, *, from_end: bool = False) -> str:
    """Truncate a long text; a prompt at its start, which holds the worked examples."""
    text = text.strip()
    if len(text) <= MOST_CHARACTERS:
        return text
    return f"... {text[-MOST_CHARACTERS:]}" if from_end else f"{text[:MOST_CHARACTERS]} ..."
