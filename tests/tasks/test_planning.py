"""From task files to plans with the real lm-eval, and what a broken task file says."""

from pathlib import Path

import pytest
import yaml

from fastdllm.common.errors import UserError
from fastdllm.tasks.generation import AnswerText, generation_wishes, sampling_temperature
from fastdllm.tasks.pairs import PairEncoder


def test_plan_holds_every_distinct_request_once(make_plan_on_disk) -> None:
    plan = make_plan_on_disk()
    assert plan.header.n_items == plan.header.n_requests == 10
    assert sorted(i for chunk in plan.header.chunks for i in chunk) == list(range(10))
    assert max(len(chunk) for chunk in plan.header.chunks) == 3
    # Eleven questions, but only eight different ones, with three options each.
    data = Path("tasks/data/choices.jsonl")
    lines = data.read_text().splitlines(keepends=True)
    data.write_text("".join([*lines, *lines[:3]]))
    choices = make_plan_on_disk("choices")
    assert (choices.header.n_items, choices.header.n_requests) == (11, 24)


def test_plan_is_the_same_every_time(make_plan_on_disk, project) -> None:
    make_plan_on_disk()
    files = [project / "results/_plans/sums" / name for name in ("plan.json", "requests.jsonl")]
    first = [file.read_bytes() for file in files]
    make_plan_on_disk()
    assert [file.read_bytes() for file in files] == first


def test_chat_prompt_keeps_its_line_break_and_spaces_move(tokenizer) -> None:
    encode_pair = PairEncoder(tokenizer)
    prefix, target = encode_pair("assistant\n", "A")
    assert (prefix[-1], target) == (ord("\n"), (ord("A"),))
    prefix, target = encode_pair("Answer: ", "A")
    assert (prefix[-1], target) == (ord(":"), (ord(" "), ord("A")))


def test_unfinished_assistant_turn_stays_open(tokenizer) -> None:
    from fastdllm.tasks.lm_eval_models import Collect

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


def header_only() -> None:
    edit("tasks/sums.yaml", "dataset_path: json", "dataset_path: csv")
    Path("tasks/data/sums.jsonl").write_text("question,answer\n")


def unknown_primary_metric() -> None:
    edit("tasks/sums.yaml", "exact_match,number", "exact_match,numbr")


def unknown_metric() -> None:
    edit("tasks/sums.yaml", "metric: exact_match,", "metric: exact_mach,")


def unknown_metric_alone() -> None:
    whole = "{metric: exact_match, aggregation: mean, higher_is_better: true}"
    edit("tasks/sums.yaml", whole, "{metric: exact_mach}")


def unknown_aggregation() -> None:
    edit("tasks/sums.yaml", "aggregation: mean", "aggregation: men")


def own_metric_without_aggregation() -> None:
    Path("tasks/own.py").write_text("def score(doc, results):\n    return {'own': 1.0}\n")
    whole = "{metric: exact_match, aggregation: mean, higher_is_better: true}"
    edit("tasks/sums.yaml", whole, "{metric: own, higher_is_better: true}")
    edit("tasks/sums.yaml", "test_split:", "process_results: !function own.score\ntest_split:")


def misspelt_target() -> None:
    edit("tasks/sums.yaml", '"{{answer}}"', "anser")


def misspelt_prompt() -> None:
    edit("tasks/sums.yaml", '"{{question}}"', "qestion")


def budget_of_text() -> None:
    edit("tasks/sums.yaml", "max_gen_toks: 24", "max_gen_toks: many")


def unknown_field() -> None:
    edit("tasks/sums.yaml", "{{question}}", "{{qestion}}")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (broken_yaml, r"tasks/sums.yaml, line 2: not valid YAML"),
        (empty_data, r"task 'sums': its data has no items; check .*tasks/data/sums.jsonl"),
        (header_only, r"task 'sums': its data has no items; check .*tasks/data/sums.jsonl"),
        (missing_data, r"tasks/sums.yaml: .*data_files: tasks/data/sums.jsonl: no such file"),
        (unknown_primary_metric, r"unknown primary metric .* did you mean 'exact_match,number'"),
        (unknown_metric, r"task 'sums': .*unknown metric 'exact_mach'; did you mean 'exact_match'"),
        (unknown_metric_alone, r"sums.yaml: .*unknown metric 'exact_mach'; did you mean"),
        (unknown_aggregation, r"task 'sums': .*unknown aggregation 'men'; did you mean 'mean'"),
        (own_metric_without_aggregation, r"metric 'own' needs an aggregation"),
        (misspelt_target, r"doc_to_target 'anser' is no column .* did you mean 'answer'\?"),
        (misspelt_prompt, r"doc_to_text 'qestion' is no column .* did you mean 'question'\?"),
        (budget_of_text, r"item sums:0: generation_kwargs: max_gen_toks: 'many' is not allowed"),
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
    says = r"^tasks/data/sums.jsonl, line 1: item sums:0: prompt of \d+ tokens \+ max_gen_toks 24"
    with pytest.raises(UserError, match=says):
        make_plan_on_disk(max_positions=50)


def test_misspelt_column_of_right_options_is_refused(make_plan_on_disk) -> None:
    edit("tasks/choices.yaml", "doc_to_target: label", "doc_to_target: lable")
    with pytest.raises(UserError, match=r"doc_to_target 'lable' is no column .*'label'"):
        make_plan_on_disk("choices")


@pytest.mark.parametrize("target", ["A", "1", "\"{{ 'A' }}\""])
def test_one_option_may_be_right_for_all_items(make_plan_on_disk, target: str) -> None:
    edit("tasks/choices.yaml", "doc_to_target: label", f"doc_to_target: {target}")
    assert make_plan_on_disk("choices").header.n_items == 8


WHERE = "item t:0: generation_kwargs"


@pytest.mark.parametrize(
    ("gen_kwargs", "expected"),
    [
        ({"until": "stop", "max_gen_toks": 8}, {"until": ["stop"], "max_gen_toks": 8}),
        ({"max_new_tokens": 8}, {"max_gen_toks": 8}),
        ({"max_tokens": 8, "max_gen_toks": 8}, {"max_gen_toks": 8}),
        ({"max_completion_tokens": 8}, {"max_gen_toks": 8}),
        ({"do_sample": True, "temperature": 0.5, "top_p": 0.9}, None),
        ({"num_beams": 1, "top_k": 0, "repetition_penalty": 1.0}, {}),
        ({"until": None, "max_tokens": None}, {}),
    ],
)
def test_wishes_of_a_task_get_one_name_and_type(gen_kwargs, expected) -> None:
    assert generation_wishes(gen_kwargs, WHERE) == (gen_kwargs if expected is None else expected)


@pytest.mark.parametrize(
    ("gen_kwargs", "message"),
    [
        ({"max_gen_tok": 8}, "unknown key 'max_gen_tok'; did you mean 'max_gen_toks'"),
        ({"max_length": 8}, "unknown key 'max_length'; did you mean 'max_gen_toks'"),
        ({"max_new_tokens": 0}, "max_gen_toks: 0 is not allowed"),
        ({"max_gen_toks": 8, "max_tokens": 9}, "max_tokens 9 contradicts max_gen_toks 8"),
        ({"until": [3]}, "until.0: 3 is not allowed"),
        ({"top_p": 7}, "top_p: 7 is not allowed; it should be less than or equal to 1"),
        ({"temperature": -1}, "temperature: -1 is not allowed"),
        ({"temperature": float("nan")}, "temperature: nan is not allowed"),
        ({"num_beams": 4}, "num_beams 4 has no meaning for block diffusion; leave it out"),
        ({"top_k": 50}, "top_k 50 has no meaning"),
        (["until"], "expected keys and values, got list"),
    ],
)
def test_wish_that_cannot_be_obeyed_is_refused(gen_kwargs, message: str) -> None:
    with pytest.raises(UserError, match=f"{WHERE}: {message}") as caught:
        generation_wishes(gen_kwargs, WHERE)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kwargs", ["generation_kwargs: {until: [x]}", ""])
def test_a_task_without_a_budget_is_refused(make_plan_on_disk, kwargs: str) -> None:
    task = yaml.safe_load(Path("tasks/sums.yaml").read_text())
    del task["generation_kwargs"]
    Path("tasks/sums.yaml").write_text(yaml.safe_dump(task) + kwargs)
    with pytest.raises(UserError, match=r"task 'sums': generation_kwargs has no max_gen_toks"):
        make_plan_on_disk()


def test_a_task_says_itself_what_ends_an_answer(make_plan_on_disk) -> None:
    edit("tasks/sums.yaml", 'until: ["<|im_end|>"]', "until: []")
    assert make_plan_on_disk().requests[0].gen_kwargs["until"] == []
    edit("tasks/sums.yaml", "until: [], ", "")
    with pytest.raises(UserError, match=r"task 'sums': generation_kwargs has no until"):
        make_plan_on_disk()


def test_plan_obeys_another_name_of_the_budget(make_plan_on_disk) -> None:
    edit("tasks/sums.yaml", "max_gen_toks: 24", "max_new_tokens: 24, num_beams: 1")
    request = make_plan_on_disk().requests[0]
    expected = {"until": ["<|im_end|>"], "max_gen_toks": 24, "do_sample": False}
    assert request.gen_kwargs == expected
    assert request.args[1]["max_new_tokens"] == 24, "lm-eval's own arguments stay its own"
