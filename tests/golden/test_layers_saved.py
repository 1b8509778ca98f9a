"""Layer-forwards that output-mode reuse saves on the recorded traces of the 28-layer model."""

from __future__ import annotations

import pytest

from fastdllm import Request
from tests.support import traces

RECORDED = [
    case
    for case in traces.cases("reuse")
    if case["model"] == "m28" and case["params"]["threshold"] == 0.9
]


# Over five prompts of 96 tokens 23.9 and 36.0 % were saved, and 10.3 and 15.4 % in the published
# implementation, which runs the layers outside the span (docs/layer-reuse.md); the two prompts that
# are recorded, of 64 tokens, give these.
@pytest.mark.parametrize(("reuse_k", "saved"), [(2, 0.2442), (3, 0.3407)])
@pytest.mark.parametrize("subset", ["first", "middle", "last"])
def test_a_reused_pass_saves_every_layer(golden_model, reuse_k, saved, subset):
    cases = [c for c in RECORDED if c["params"]["reuse_k"] == reuse_k]
    cases = [c for c in cases if c["params"]["layer_subset"] == subset]
    assert len(cases) == 2
    model, skipped, every = golden_model("m28"), 0, 0
    for case in cases:
        request = Request(tuple(case["prompts"][0]))
        chosen = traces.settings_of(case, max_new_tokens=len(traces.recorded_answer(case)))
        passes = traces.run(model, [request], chosen)[0].generation.passes
        # The published code left layers out on exactly these steps: 12 of 28, here all.
        assert passes.reused == sum(step["layers_run"] < 28 for step in case["steps"])
        assert passes.layer_forwards_skipped == 28 * passes.reused
        skipped += passes.layer_forwards_skipped
        every += passes.layer_forwards_skipped + passes.layer_forwards_computed
    assert skipped / every == pytest.approx(saved, abs=1e-4)
