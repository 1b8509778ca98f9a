"""What a conversation keeps between turns: the same tokens, few rows, and never over the budget."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fastdllm import DecodingSettings, Request, generate
from fastdllm.decoding.decoder import Decoder
from fastdllm.decoding.events import PassRecord
from fastdllm.decoding.prefixes import PrefixStore
from fastdllm.engine.cache import KVCache
from fastdllm.model.fused import FusedModel
from fastdllm.policy import PassKind, default_policy
from tests.support.policies import DeltaReuse

CHOSEN = DecodingSettings(max_new_tokens=40, mask_id=255, stop_token=254)


def answer(decoder, prompt, *, patience=None, **wishes):
    """The answer to a prompt, the rows of its prefill, and all of its steps."""
    index = decoder.add(Request(tuple(prompt), **wishes))
    steps = []
    while not decoder.is_idle:
        if len(steps) == patience:
            decoder.cancel(index)
        steps += decoder.tick()
    rows = sum(step.rows for step in steps if step.kind is PassKind.PREFILL)
    return steps[-1].finished, rows, steps


@settings(
    max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    turns=st.lists(
        st.tuples(st.integers(1, 90), st.integers(1, 50), st.none() | st.integers(0, 9)),
        min_size=2,
        max_size=4,
    ),
    threshold=st.sampled_from([0.3, 0.9]),
    temperature=st.sampled_from([0.0, 0.8]),
    use_block_cache=st.booleans(),
)
def test_the_next_turn_has_the_tokens_of_a_fresh_prefill_and_runs_what_is_new(
    golden_model, turns, threshold, temperature, use_block_cache
):
    model = golden_model("m6")
    chosen = CHOSEN.model_copy(
        update={
            "threshold": threshold,
            "temperature": temperature,
            "use_block_cache": use_block_cache,
        }
    )
    events = []
    decoder = Decoder.live(
        FusedModel(model),
        default_policy(chosen, 6),
        slots=2,
        prefixes=PrefixStore(2**30),
        observe=events.append,
    )
    conversation, seen = [], 0
    for length, most, patience in turns:
        conversation += [(7 * i + length) % 250 for i in range(length)]
        events.clear()
        found, rows, steps = answer(decoder, conversation, max_new_tokens=most, patience=patience)
        (fresh,) = generate(model, [Request(tuple(conversation), max_new_tokens=most)], chosen)
        if found.finish_reason == "cancelled":
            assert found.token_ids == fresh.token_ids[: len(found.token_ids)]
        else:
            assert found.token_ids == fresh.token_ids
            whole = len(conversation) // 32 * 32
            # Of what was decoded before, at most the block that the last answer ended in, or one
            # of which the last row is needed.
            assert rows <= max(whole - seen, 0) + 32
            ran = sum(event.rows for event in events if isinstance(event, PassRecord))
            assert ran == sum(step.rows for step in steps)
            seen = (len(conversation) + len(found.token_ids) - 1) // 32 * 32
        conversation += found.token_ids
        if found.finish_reason == "cancelled":
            seen = 0
    decoder.close()


def test_what_spans_of_layers_reused_is_never_kept(golden_model):
    model = golden_model("m6")
    chosen = CHOSEN.model_copy(update={"reuse_k": 3, "layer_subset": "middle"})
    policy = DeltaReuse(chosen, DeltaReuse.Parameters(), 6)
    decoder = Decoder.live(FusedModel(model), policy, slots=1, prefixes=PrefixStore(2**30))
    first, _, _ = answer(decoder, range(50), max_new_tokens=100)
    conversation = (*range(50), *first.token_ids, 1, 2, 3)
    second, rows, _ = answer(decoder, conversation)
    assert rows <= 32
    fresh = DeltaReuse(chosen, DeltaReuse.Parameters(), 6)
    assert second.token_ids == generate(model, [Request(conversation)], policy=fresh)[0].token_ids


def test_a_prompt_of_whole_blocks_runs_its_last_one_for_the_token_that_follows(golden_model):
    model, prompt = golden_model("m6"), tuple(range(96))
    decoder = Decoder.live(
        FusedModel(model), default_policy(CHOSEN, 6), slots=1, prefixes=PrefixStore(2**30)
    )
    (fresh,) = generate(model, [Request(prompt)], CHOSEN)
    answers = [answer(decoder, prompt) for _ in range(2)]
    assert [found for found, _, _ in answers] == [fresh, fresh]
    assert [rows for _, rows, _ in answers] == [96, 32]
    # The same tokens from another beginning are other blocks.
    other = (99, *prompt[1:])
    found, rows, _ = answer(decoder, other)
    assert (found, rows) == (generate(model, [Request(other)], CHOSEN)[0], 96)


CONFIG = SimpleNamespace(num_layers=2, num_kv_heads=1, head_dim=2)
SIZE = 4
BLOCK_BYTES = 2 * SIZE * 2 * 2 * 4


@given(
    prompts=st.lists(
        st.lists(st.integers(0, 1), max_size=6).map(
            lambda blocks: [b for b in blocks for _ in range(SIZE)]
        ),
        max_size=12,
    ),
    blocks=st.integers(0, 8),
)
def test_the_budget_holds_and_the_least_recently_used_go_first(prompts, blocks):
    store = PrefixStore(blocks * BLOCK_BYTES + 5)
    cache = KVCache(CONFIG, capacity=64, device=torch.device("cpu"), dtype=torch.float32)
    # The oracle: whole beginnings, the most recently used last; a beginning is used with its ends.
    used: list[tuple[int, ...]] = []
    for prompt in prompts:
        sequence = SimpleNamespace(
            block_size=SIZE,
            prompt_length=len(prompt) + 1,
            tokens=[*prompt, 0],
            whole_blocks=len(prompt) // SIZE,
            cache_start=0,
        )
        cache.rows[0].zero_()
        chain = [tuple(prompt[:end]) for end in range(SIZE, len(prompt) + 1, SIZE)]
        store.restore(sequence, cache)
        assert sequence.restored == sequence.prefilled == sum(part in used for part in chain)
        for block, part in enumerate(chain[: sequence.restored]):
            written = cache.rows[0][block * SIZE : (block + 1) * SIZE]
            assert written.eq(value_of(part)).all()
        for block, part in enumerate(chain):
            for rows in cache.rows:
                rows[block * SIZE : (block + 1) * SIZE] = value_of(part)
        store.keep(sequence, cache)
        chain = chain[:blocks]
        used = [part for part in used if part not in chain] + chain[::-1]
        used = used[max(len(used) - blocks, 0) :]
        assert store.bytes == len(store) * BLOCK_BYTES == len(used) * BLOCK_BYTES
        assert store.bytes <= store.budget


def value_of(part: tuple[int, ...]) -> float:
    """A number that stands for the keys and values of a block after its beginning."""
    return float(hash(part) % 1000003)


@pytest.mark.parametrize("budget", [0, 100])
def test_a_budget_below_one_block_keeps_nothing(golden_model, budget):
    store = PrefixStore(budget)
    decoder = Decoder.live(
        FusedModel(golden_model("m6")), default_policy(CHOSEN, 6), slots=1, prefixes=store
    )
    assert [answer(decoder, range(70))[1] for _ in range(2)] == [64, 64]
    assert (len(store), store.bytes) == (0, 0)
