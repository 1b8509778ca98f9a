"""From task files to plans with the real lm-eval, and what a broken task file says."""

from pathlib import Path

import pytest

from fastdllm.errors import UserError
from fastdllm.evaluation.planning import encode_pair
from fastdllm.evaluation.tokenization import AnswerText, sampling_temperature


def test_plan_holds_every_distinct_request_once(make_plan_on_disk) -> None:
    plan = make_plan_on_disk()
    assert plan.header.n_items == plan.header.n_requests == 10
    assert sorted(i for chunk in plan.header.chunks for i in chunk) == list(range(10))
    assert max(len(chunk) for chunk in plan.header.chunks) == 3
    # Eight questions, but only three different ones, with three options each.
    choices = make_plan_on_disk("choices")
    assert (choices.header.n_items, choices.header.n_requests) == (8, 9)


def test_plan_is_the_same_every_time(make_plan_on_disk, project) -> None:
    make_plan_on_disk()
    files = [project / "results/_plans/sums" / name for name in ("plan.json", "requests.jsonl")]
    first = [file.read_bytes() for file in files]
    make_plan_on_disk()
    assert [file.read_bytes() for file in files] == first


def test_chat_prompt_keeps_its_line_break_and_spaces_move(tokenizer) -> None:
    prefix, target = encode_pair(tokenizer, "assistant\n", "A")
    assert (prefix[-1], target) == (ord("\n"), (ord("A"),))
    prefix, target = encode_pair(tokenizer, "Answer: ", "A")
    assert (prefix[-1], target) == (ord(":"), (ord(" "), ord("A")))


def test_unfinished_assistant_turn_stays_open(tokenizer) -> None:
    from fastdllm.evaluation.lm import Collect

    turns = [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "def f("}]
    text = Collect(tokenizer).apply_chat_template(turns, add_generation_prompt=False)
    assert text.endswith("def f(")


def test_answers_end_at_the_first_until(tokenizer) -> None:
    ids = tokenizer("12 Question: 3 stop", add_special_tokens=False)["input_ids"]
    cut = AnswerText(tokenizer, ["stop", "Question:", "<|im_end|>"])
    assert cut.text(ids) == "12 "
    assert cut.text([*ids[:2], 254, *ids]) == "12"
    ended = cut.stop_when()
    assert ended is not None
    assert next(n for n in range(len(ids) + 1) if ended(ids[:n])) == len("12 Question:")
    assert AnswerText(tokenizer, None).stop_when() is None


@pytest.mark.parametrize(
    ("wishes", "expected"),
    [
        ({}, 0.3),
        ({"do_sample": False, "temperature": 0.8}, 0.0),
        ({"do_sample": True}, 0.3),
        ({"temperature": 0.8}, 0.8),
    ],
)
def test_temperature_of_a_task_wins(wishes: dict[str, object], expected: float) -> None:
    assert sampling_temperature(wishes, 0.3) == expected


def edit(path: str, old: str, new: str) -> None:
    text = Path(path).read_text()
    assert old in text
    Path(path).write_text(text.replace(old, new))


def broken_yaml() -> None:
    Path("tasks/sums.yaml").write_text("task: sums\n  metric_list: [\n")


def empty_data() -> None:
    Path("tasks/data/sums.jsonl").write_text("")


def missing_data() -> None:
    Path("tasks/data/sums.jsonl").unlink()


def unknown_metric() -> None:
    edit("tasks/sums.yaml", "exact_match,number", "exact_match,numbr")


def unknown_field() -> None:
    edit("tasks/sums.yaml", "{{question}}", "{{qestion}}")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (broken_yaml, r"tasks/sums.yaml: not valid YAML: .* line 2"),
        (empty_data, r"sums"),
        (missing_data, r"tasks/sums.yaml: cannot be loaded: FileNotFoundError"),
        (unknown_metric, r"unknown primary metric .* did you mean 'exact_match,number'"),
        (unknown_field, r"qestion|prompt"),
    ],
)
def test_broken_task_is_told_in_one_line(make_plan_on_disk, damage, message) -> None:
    damage()
    with pytest.raises(UserError, match=message) as caught:
        make_plan_on_disk()
    assert "\n" not in str(caught.value)
    assert not Path("results/_plans").exists()


def test_unknown_task_names_the_nearest(make_plan_on_disk) -> None:
    with pytest.raises(UserError, match="unknown task 'sum'; did you mean 'sums'"):
        make_plan_on_disk("sum")


def test_prompt_that_does_not_fit_is_refused_not_cut(make_plan_on_disk) -> None:
    with pytest.raises(UserError, match=r"item sums:0: prompt of \d+ tokens \+ max_gen_toks 24"):
        make_plan_on_disk(max_positions=50)
