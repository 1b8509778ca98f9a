"""Chunks and identities of requests, without lm-eval."""

import json

import pytest

from fastdllm.errors import UserError
from fastdllm.evaluation.requests import PlannedRequest, fixed_chunks, read_plan, request_id


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


def test_identity_ignores_the_order_of_wishes_but_not_the_repeat() -> None:
    one = request_id("generate_until", ("p", {"a": 1, "b": 2}))
    assert one == request_id("generate_until", ("p", {"b": 2, "a": 1}))
    assert one != request_id("generate_until", ("p", {"a": 1, "b": 2}), repeat=1)


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
