"""Chunks and identities of requests, without lm-eval."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastdllm.common.errors import UserError
from fastdllm.tasks.plan import PlannedRequest, fixed_chunks, read_plan, request_id


def generation(length: int, **gen_kwargs: object) -> PlannedRequest:
    return PlannedRequest(
        id=str(length),
        kind="generate_until",
        item="t:0",
        prompt_ids=(1,) * length,
        args=(),
        gen_kwargs=gen_kwargs,
    )


def option(context: tuple[int, ...], target: int) -> PlannedRequest:
    return PlannedRequest(
        id=f"{context}{target}",
        kind="loglikelihood",
        item="t:0",
        prompt_ids=context,
        args=(),
        target_ids=(target,),
    )


def test_longest_prompts_come_first_and_wishes_are_not_mixed() -> None:
    requests = [generation(3), generation(9), generation(5, temperature=1.0), generation(7)]
    assert fixed_chunks(requests, 2) == [[1, 3], [0], [2]]


def test_options_of_one_context_stay_together() -> None:
    requests = [option((1,), 5), option((2, 2), 5), option((1,), 6), option((2, 2), 6)]
    assert fixed_chunks(requests, 3) == [[1, 3], [0, 2]]
    assert fixed_chunks(requests, 1) == [[1, 3], [0, 2]]


def subject(name: int, blocks: int, questions: list[int]) -> list[PlannedRequest]:
    """Two options for each question, which adds so many tokens to a prefix of whole blocks."""
    prefix = (name,) * (32 * blocks)
    contexts = [(*prefix, number, *(9,) * more) for number, more in enumerate(questions)]
    return [option(context, letter) for context in contexts for letter in (5, 6)]


def test_contexts_with_a_common_prefix_share_a_chunk() -> None:
    long, short = subject(1, 4, [10, 30, 20]), subject(2, 4, [15, 25])
    # Asked in turn; sorted by length alone, the two subjects would be mixed.
    requests = [*long[:2], *short[:2], *long[2:4], *short[2:], *long[4:]]
    assert fixed_chunks(requests, 6) == [[4, 5, 8, 9, 0, 1], [6, 7, 2, 3]]


def test_a_group_that_does_not_fit_begins_a_chunk_even_if_it_needs_several() -> None:
    one, other = subject(1, 4, [9, 8]), subject(2, 4, [7, 6, 5, 4, 3])
    assert fixed_chunks(one + other, 6) == [[0, 1, 2, 3], list(range(4, 10)), list(range(10, 14))]


def test_a_small_group_is_torn_where_a_new_chunk_would_cost_more() -> None:
    """Four blocks in common with all, one more with each other: not worth four blocks again."""
    alone = [option((*(1,) * 128, 7, *(8,) * 60), letter) for letter in (5, 6)]
    passage = [option((*(1,) * 128, *(2,) * 32, n), letter) for n in (3, 4) for letter in (5, 6)]
    assert fixed_chunks(alone + passage, 4) == [[0, 1, 2, 3], [4, 5]]
    # Four blocks more with each other are.
    passage = [option((*(1,) * 128, *(2,) * 128, n), letter) for n in (3, 4) for letter in (5, 6)]
    other = [option((*(1,) * 128, 7, *(8,) * 200), letter) for letter in (5, 6)]
    assert fixed_chunks(other + passage, 4) == [[0, 1], [2, 3, 4, 5]]


@given(
    st.lists(
        st.tuples(st.lists(st.integers(0, 1), max_size=4), st.integers(0, 40), st.integers(1, 3)),
        max_size=12,
    ),
    st.integers(1, 9),
)
def test_chunks_hold_every_request_once_and_every_context_whole(drawn, size: int) -> None:
    contexts = [
        tuple(b for block in blocks for b in [block] * 32) + (2,) * n for blocks, n, _ in drawn
    ]
    requests = [
        option(context, letter)
        for context, (_, _, count) in zip(contexts, drawn, strict=True)
        for letter in range(count)
    ]
    chunks = fixed_chunks(requests, size)
    assert sorted(i for chunk in chunks for i in chunk) == list(range(len(requests)))
    assert all(chunks)
    for chunk in chunks:
        in_chunk = {requests[i].prompt_ids for i in chunk}
        assert len(chunk) <= size or len(in_chunk) == 1
    places = {i: number for number, chunk in enumerate(chunks) for i in chunk}
    for context in set(contexts):
        assert len({places[i] for i, r in enumerate(requests) if r.prompt_ids == context}) == 1
    if chunks:
        first = requests[chunks[0][0]].prompt_ids
        assert len(first) == max(len(context) for context in contexts)


def test_identity_ignores_the_order_of_wishes_but_not_the_repeat() -> None:
    first = request_id("generate_until", ("p", {"a": 1, "b": 2}))
    assert first == request_id("generate_until", ("p", {"b": 2, "a": 1}))
    assert first != request_id("generate_until", ("p", {"a": 1, "b": 2}), repeat=1)


def test_a_prompt_that_options_share_is_written_once(make_plan_on_disk, project) -> None:
    plan = make_plan_on_disk("choices")
    folder = project / "results/_plans/choices"
    lines = (folder / "requests.jsonl").read_text().splitlines()
    assert len(lines) == 3 * sum("prompt_ids" in json.loads(line) for line in lines) == 24
    again = read_plan(folder, "choices")
    assert again == plan
    assert again.requests[0].prompt_ids is again.requests[2].prompt_ids


def test_changed_requests_file_is_refused(make_plan_on_disk, project) -> None:
    plan = make_plan_on_disk()
    folder = project / "results/_plans/sums"
    assert read_plan(folder, "sums") == plan
    (folder / "requests.jsonl").write_text("{}\n")
    with pytest.raises(UserError, match=r"does not belong to plan\.json; run `fastdllm plan"):
        read_plan(folder, "sums")
    (folder / "plan.json").unlink()
    with pytest.raises(UserError, match=r"plan\.json: the plan of task 'sums' is missing"):
        read_plan(folder, "sums")


@pytest.mark.parametrize("chunks", [[[0]], [[0, 1, 1]], [[0, 1, -1]], [list(range(11))], []])
def test_chunks_that_do_not_hold_each_request_once_are_refused(
    make_plan_on_disk, project, chunks: list[list[int]]
) -> None:
    make_plan_on_disk()
    path = project / "results/_plans/sums/plan.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"chunks": chunks}))
    with pytest.raises(UserError, match=r"plan\.json: its chunks do not hold each request once; "):
        read_plan(path.parent, "sums")


def test_a_plan_of_another_version_is_to_be_made_again(make_plan_on_disk, project) -> None:
    make_plan_on_disk()
    path = project / "results/_plans/sums/plan.json"
    old = json.loads(path.read_text()) | {"schema_version": 1}
    path.write_text(json.dumps(old))
    with pytest.raises(UserError, match=r"another version of fastdllm; run `fastdllm plan --task"):
        read_plan(path.parent, "sums")


@pytest.mark.parametrize(
    ("folder", "command"),
    [
        ("sums", "fastdllm plan --task sums`"),
        ("sums_limit_20", "fastdllm plan --task sums --limit 20`"),
        ("elsewhere", "fastdllm plan --task sums`"),
    ],
)
def test_advice_to_plan_again_names_the_limit(tmp_path, folder: str, command: str) -> None:
    with pytest.raises(UserError) as caught:
        read_plan(tmp_path / folder, "sums")
    assert command in str(caught.value)
