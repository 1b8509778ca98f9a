"""Runs of different computations that are alike in all that is measured of their answers.

Two settings may be one by a rule of the decoder that no digest knows; then one of them is no more
evidence. Found by the items that are right, the passes and the tokens, and only named.
"""

from __future__ import annotations

from collections.abc import Sequence

from fastdllm.records.summary import Summary


def twins(summaries: Sequence[Summary]) -> list[list[Summary]]:
    """Return the runs that are alike, one of each computation; summaries: of one task."""
    groups: dict[tuple[object, ...], dict[str, Summary]] = {}
    for run in summaries:
        if run.items is None or run.passes is None or run.throughput is None:
            continue
        passes = run.passes
        measured = (
            run.decides.get("model_digest"),
            run.items.correct_bits,
            run.throughput.tokens_generated,
            passes.layer_forwards_computed,
            passes.full_block + passes.sub_block,
            passes.commit,
        )
        groups.setdefault(measured, {}).setdefault(run.computation or run.fingerprint, run)
    return [list(group.values()) for group in groups.values() if len(group) > 1]


def twin_sentences(summaries: Sequence[Summary]) -> list[str]:
    """Name the runs that are alike, a sentence for each group."""
    sentences = []
    for group in twins(summaries):
        *names, last = (f"`{run.config}`" for run in group)
        sentences.append(
            f"{', '.join(names)} and {last} are right on the same items, with as many tokens, "
            "passes and layer-forwards: no evidence for each other."
        )
    return sentences
