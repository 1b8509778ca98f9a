"""Passes at fixed shapes, as a GPU runs them, give the same tokens, recorded or not.

On a CPU the recording is a trace of the operations, in which every value of the host is burnt in.
"""

from __future__ import annotations

import copy
import sys
import types
import weakref
from functools import partial

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fastdllm import DecodingSettings, Request, generate
from fastdllm.engine import static_attention
from fastdllm.engine.batch import Segment
from fastdllm.engine.engines import can_flash
from fastdllm.engine.static import CudaGraphs
from fastdllm.engine.static_tables import PassShape, StaticTables, sized
from fastdllm.model.fused import fused
from fastdllm.policy import Policy
from tests.support import traces
from tests.support.engines import on_fixed_shapes, traced, varlen_attention
from tests.support.policies import DeltaReuse, StaggeredSpans

CHOSEN = DecodingSettings(max_new_tokens=50, mask_id=255, stop_token=254)
LENGTHS = (0, 5, 31, 32, 37, 64, 95)
FEW = (0, 5, 32, 37)
SINGLE = [case for case in traces.cases("plain") if len(case["prompts"][0]) != 32]
CASES = [*SINGLE[::6], *traces.cases("blocks")[::2], *traces.cases("reuse")[::12]]


def requests(lengths=LENGTHS):
    return [Request(tuple(range(n)), max_new_tokens=20 + n) for n in lengths]


@pytest.mark.parametrize("case", CASES, ids=traces.case_ids(CASES))
def test_recorded_traces_are_reproduced_at_fixed_shapes(golden_model, case):
    model = on_fixed_shapes(golden_model(case["model"]))
    recorded = traces.recorded_answer(case)
    chosen = traces.settings_of(case, max_new_tokens=len(recorded))
    trace = traces.run(model, [Request(tuple(case["prompts"][0]))], chosen)[0]
    assert trace.generation.token_ids == recorded
    assert trace.order == case["call_order"]
    assert trace.steps == traces.recorded_steps(case)


@pytest.mark.parametrize(("name", "lookahead_depth"), [("m6", 0), ("m6", 2), ("m14", 0)])
def test_a_batch_at_fixed_shapes_equals_the_same_batch_in_its_own(
    golden_model, name, lookahead_depth
):
    model = golden_model(name)
    changes = {"lookahead_depth": lookahead_depth, "lookahead_threshold": 0.5}
    chosen = CHOSEN.model_copy(update=changes)
    expected = generate(model, requests(), chosen)
    for slots in (1, 3, None):
        assert generate(on_fixed_shapes(model), requests(), chosen, slots=slots) == expected


def test_a_recording_holds_the_values_of_the_host_and_reads_the_buffers_anew():
    buffer, length = torch.arange(4.0), [2]

    def forward():
        rows = buffer[: length[0]].clone()
        return rows.mul_(length[0]).sum()

    replay = traced(forward)
    buffer += 10
    length[0] = 3
    assert replay() == 42, "(10 + 11) * 2: new rows, old length"
    with pytest.raises(AssertionError, match="cannot be recorded"):
        traced(lambda: buffer * buffer.max().item())


def test_replays_of_recorded_passes_depend_on_their_buffers_alone(golden_model):
    plain = golden_model("m6")
    model = on_fixed_shapes(plain, traced)
    with torch.inference_mode(False):
        expected = generate(plain, requests(LENGTHS[:5]), CHOSEN)
        for slots, order in ((2, 1), (3, -1), (5, 1)):
            some = requests(LENGTHS[:5])[::order]
            assert generate(model, some, CHOSEN, slots=slots) == expected[::order]
    (engine,) = model.idle_engines
    recorded = sum(len(slot.replays) for slot in engine.slots.values())
    assert 0 < recorded <= len(engine.slots) < 30


@pytest.mark.parametrize("policy_class", [DeltaReuse, StaggeredSpans])
def test_ranges_of_layers_are_recorded_apart_so_that_policies_can_skip_them(
    golden_model, policy_class
):
    plain = golden_model("m6")
    chosen = CHOSEN.model_copy(update={"reuse_k": 2, "layer_subset": "middle"})

    def policy():
        return policy_class(chosen, policy_class.Parameters(), plain.config.num_layers)

    expected = generate(plain, requests(), chosen, policy())
    model = on_fixed_shapes(plain)
    assert generate(model, requests(), chosen, policy()) == expected
    (engine,) = model.idle_engines
    ranges = {key[:2] for slot in engine.slots.values() for key in slot.replays}
    assert set(policy().layer_spans) <= ranges


def test_an_engine_is_taken_up_again_when_it_is_large_enough(golden_model):
    model = on_fixed_shapes(golden_model("m6"))
    generate(model, requests((64, 95)), CHOSEN)
    (first,) = model.idle_engines
    generate(model, requests((64,)), CHOSEN)
    assert model.idle_engines == [first]
    generate(model, requests((64, 95, 95)), CHOSEN)
    (second,) = model.idle_engines
    assert second is not first
    assert second.cache.capacity > first.cache.capacity


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.lists(
        st.tuples(st.sampled_from([8, 32]), st.integers(1, 20), st.booleans()),
        min_size=1,
        max_size=40,
    )
)
def test_a_shape_holds_its_segments_and_what_is_left_over_works_on_the_scratch_position(parts):
    segments = [
        Segment(
            1000 * n, 32 * blocks - 32, [7] * width, 32 * blocks, (0, width) if read else (0, 0)
        )
        for n, (width, blocks, read) in enumerate(parts)
    ]
    shape = PassShape.of(segments, 32)
    rows, reads = sum(s.width for s in segments), sum(s.read[1] for s in segments)
    assert rows <= shape.rows <= max(2 * rows, 8)
    assert reads <= shape.read <= max(2 * reads, 8)
    assert all(s.visible <= shape.visible for s in segments)
    tables = StaticTables(shape, torch.device("cpu"))
    tables.fill(segments, scratch=99_999)
    assert tables.write[rows:].eq(99_999).all()
    assert tables.starts[len(segments) :].eq(99_999).all()
    for bounds, last in ((tables.bounds, shape.rows), (tables.read_bounds, shape.read)):
        widths = bounds.diff()
        assert bounds[0] == 0
        assert bounds[-1] == last
        assert widths.min() >= 0
        assert widths.max() <= shape.width
    assert tables.bounds.diff()[: len(segments)].tolist() == [s.width for s in segments]
    # Each row finds its way back from its segment's padded place.
    place = tables.place // shape.width
    starts = tables.bounds[place]
    assert torch.equal(starts + tables.place % shape.width, torch.arange(shape.rows))


def test_sizes_are_few_and_never_too_small():
    sizes = [sized(n, 8) for n in range(1, 1025)]
    assert all(size >= n for n, size in enumerate(sizes, 1))
    assert sorted(set(sizes)) == [8, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024]


def test_attention_over_rows_of_different_length_gives_the_same_tokens(golden_model, monkeypatch):
    monkeypatch.setattr("torch.nn.attention.varlen.varlen_attn", varlen_attention)
    plain = golden_model("m6")
    model = on_fixed_shapes(plain, attention=static_attention.FlashAttention)
    for policy_class in (Policy, StaggeredSpans):
        policy = partial(policy_class, CHOSEN, policy_class.Parameters(), 6)
        expected = generate(plain, requests(FEW), CHOSEN, policy())
        for slots in (1, 3, 8):
            assert generate(model, requests(FEW), CHOSEN, policy(), slots=slots) == expected


def without_groups_and_lengths(query, *, scale=None):
    """As in torch 2.11: not to be called with what a pass has."""
    raise AssertionError((query, scale))


@pytest.mark.parametrize(
    ("varlen", "kind"),
    [
        (varlen_attention, static_attention.FlashAttention),
        (without_groups_and_lengths, static_attention.PaddedAttention),
        (None, static_attention.PaddedAttention),
    ],
)
def test_attention_in_half_precision_is_chosen_by_what_torch_offers(
    golden_model, monkeypatch, varlen, kind
):
    module = types.SimpleNamespace(**{} if varlen is None else {"varlen_attn": varlen})
    monkeypatch.setitem(sys.modules, "torch.nn.attention.varlen", module)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (9, 0))
    plain = golden_model("m6")
    assert not can_flash(fused(plain)), "float32"
    half = fused(copy.deepcopy(plain).to(torch.bfloat16))
    assert can_flash(half) is (kind is static_attention.FlashAttention)
    model = on_fixed_shapes(plain, attention=kind)
    assert generate(model, requests(FEW), CHOSEN, slots=3) == generate(plain, requests(FEW), CHOSEN)


def test_an_engine_that_is_too_small_is_gone_before_a_larger_one_is_made(golden_model):
    model = on_fixed_shapes(golden_model("m6"))
    generate(model, requests((5,)), CHOSEN)
    small = weakref.ref(model.idle_engines[0].cache)
    seen = []
    make = model.make_engine

    def watch(fused, capacity):
        seen.append(small())
        return make(fused, capacity)

    model.make_engine = watch
    generate(model, requests((95, 95)), CHOSEN)
    assert seen == [None]


ON_GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU; none here")


@pytest.mark.gpu
@ON_GPU
@pytest.mark.parametrize("name", ["m6", "m14"])
def test_captured_graphs_on_a_gpu_give_the_same_tokens_in_float32(golden_model, name):
    # Without the empty prompt: a block of nothing but masks has equal logits at all positions, and
    # how this device rounds decides which one is committed first.
    prompts = requests(LENGTHS[1:])
    expected = generate(golden_model(name), prompts, CHOSEN)
    model = fused(copy.deepcopy(golden_model(name)).to("cuda"))
    for slots in (1, 3, None):
        assert generate(model, prompts, CHOSEN, slots=slots) == expected


@pytest.mark.gpu
@ON_GPU
@torch.inference_mode()
def test_flash_attention_on_a_gpu_is_as_close_to_float32_as_padded_products(golden_model):
    if not static_attention.FlashAttention.is_offered():
        pytest.skip(f"torch {torch.__version__} has no varlen_attn for grouped heads (2.12 has)")
    plain = copy.deepcopy(golden_model("m14")).to("cuda", torch.bfloat16)
    segments = [Segment(64 * n, 32, [7 + n] * w, 64, (0, w)) for n, w in enumerate((32, 8, 32))]
    logits = []
    for kind in (static_attention.FlashAttention, static_attention.PaddedAttention):
        model = on_fixed_shapes(plain, CudaGraphs(torch.device("cuda", 0)), kind)
        opened = model.make_engine(model, 512).open(segments)
        hidden = opened.layers(opened.embed(), 0, model.config.num_layers, only_read=True)
        logits.append(model.logits(hidden))
    assert (logits[0] - logits[1]).abs().mean() < 0.02 * logits[1].abs().mean()
