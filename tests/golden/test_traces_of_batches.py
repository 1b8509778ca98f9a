"""Recorded batches: each of our rows follows the batch-1 rules; the recorded ones may not.

The published decoder decides on full-block passes for the whole batch at once. With the block cache
off that does not show, but for two of its defects; with the block cache on most rows differ.
"""

from __future__ import annotations

import pytest

from fastdllm import Request
from tests.support import traces

BLOCK = 32
BATCHES = [
    *traces.cases("batch"),
    *(case for case in traces.cases("fixedprefill") if case["batch"] > 1),
]


def spoiled_by_published_defects(case, row: int) -> bool:
    """The recording lost this row's prompt, or never predicted its first token from it."""
    lengths = [len(prompt) for prompt in case["prompts"]]
    corrected = case["id"].startswith("fixedprefill")
    if min(lengths) == BLOCK and not corrected:
        return True
    return lengths[row] % BLOCK == 0 and min(lengths) < lengths[row] < max(lengths)


COMPARABLE = {
    case["id"]: [
        row for row in range(len(case["prompts"])) if not spoiled_by_published_defects(case, row)
    ]
    for case in BATCHES
    if not case["params"]["use_block_cache"]
}
# With a block cache, these happened to need their full-block passes whenever their batch did.
EQUAL_ALL_THE_SAME = {
    "batch_m14_bc1_5-40-70": [1],
    "batch_m14_bc1_64-70": [0],
    "batchstop_m6_bc1_40-41-50_at6": [0],
    "batchstop_m6_bc1_7-20-45_at6": [0],
    "batchstop_m6_bc1_70-33_at6": [0, 1],
    "fixedprefill_m6_bc1_32-64": [0],
}


def test_enough_rows_are_comparable():
    assert sum(map(len, COMPARABLE.values())) >= 20


@pytest.mark.parametrize("case", BATCHES, ids=traces.case_ids(BATCHES))
def test_a_batch_equals_its_rows_alone_and_rows_that_can_equal_the_recording(golden_model, case):
    model = golden_model(case["model"])
    longest = max(len(answer) for answer in case["output_ids"])
    chosen = traces.settings_of(case, max_new_tokens=longest)
    requests = [Request(tuple(prompt)) for prompt in case["prompts"]]
    together = traces.run(model, requests, chosen)
    for request, trace in zip(requests, together, strict=True):
        (alone,) = traces.run(model, [request], chosen)
        assert trace.generation == alone.generation
        assert trace.steps == alone.steps
        assert trace.order == alone.order
    answers = [traces.recorded_answer(case, row) for row in range(len(together))]
    equal = [
        row
        for row, (trace, answer) in enumerate(zip(together, answers, strict=True))
        if trace.generation.token_ids[: len(answer)] == answer
    ]
    if case["params"]["use_block_cache"]:
        assert equal == EQUAL_ALL_THE_SAME.get(case["id"], [])
        return
    for row in COMPARABLE[case["id"]]:
        assert row in equal
        steps = traces.recorded_steps(case, row)
        # Beyond its stop the recording goes on to the end of the block.
        compared = min(len(steps), len(together[row].steps))
        assert together[row].steps[:compared] == steps[:compared]
