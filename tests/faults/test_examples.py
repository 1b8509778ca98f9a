"""Examples of few-shot prompts: what they must not hold, and that they are what was asked for."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fastdllm.common.errors import UserError
from fastdllm.runs.answer_records import Answer
from fastdllm.runs.scoring import score_answers
from fastdllm.tasks.lm_eval_tasks import load_task
from tests.support.run_project import write_lines
from tests.support.small_project import edit

Plan = Callable[..., Any]


def add_examples(task: str, records: list[dict[str, Any]]) -> None:
    """Draw the examples of a task from another split."""
    write_lines(Path("tasks/data/examples.jsonl"), records)
    edit(f"tasks/{task}.yaml", "{test:", "{train: tasks/data/examples.jsonl, test:")
    path = Path(f"tasks/{task}.yaml")
    path.write_text(
        path.read_text().replace("fewshot_split: test\n", "") + "training_split: train\n"
    )


def prompts(plan: Any) -> list[str]:
    return [request.args[0] for request in plan.requests]


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("fewshot_split: test\n", ""),
        ("test_split: test\nfewshot_", "validation_split: test\nfewshot_"),
        ("fewshot_split: test\n", "fewshot_config: {sampler: first_n}\n"),
    ],
)
def test_an_item_is_not_among_its_own_examples(make_plan_on_disk: Plan, old: str, new: str) -> None:
    edit("tasks/sums.yaml", old, new)
    make_plan_on_disk("sums")
    with pytest.raises(UserError, match=r"the items themselves.* fewshot_split: test"):
        make_plan_on_disk("sums", num_fewshot=3)


@pytest.mark.parametrize(
    "splits", ["test_split: test\nfewshot_split: test\n", "validation_split: test\n"]
)
def test_an_item_is_left_out_of_its_own_examples(make_plan_on_disk: Plan, splits: str) -> None:
    edit("tasks/sums.yaml", "test_split: test\nfewshot_split: test\n", splits)
    plan = make_plan_on_disk("sums", num_fewshot=9)
    assert len(plan.requests) == 10
    assert all(prompt.count(f"What is {i} +") == 1 for i, prompt in enumerate(prompts(plan)))
    with pytest.raises(UserError, match="num_fewshot 10: there are only 10 examples, one of which"):
        make_plan_on_disk("sums", num_fewshot=10)


@pytest.mark.parametrize(("sampler", "most"), [("first_n", 3), ("default", 2)])
def test_as_many_examples_as_there_are_may_be_asked_for(
    make_plan_on_disk: Plan, sampler: str, most: int
) -> None:
    add_examples("sums", [{"question": f"Of {i}? ", "answer": str(i)} for i in range(3)])
    edit("tasks/sums.yaml", "test_split: test", "validation_split: test")
    edit("tasks/sums.yaml", "output_type", f"fewshot_config: {{sampler: {sampler}}}\noutput_type")
    assert all(
        prompt.count("Of ") == most for prompt in prompts(make_plan_on_disk(num_fewshot=most))
    )
    with pytest.raises(UserError, match=f"num_fewshot {most + 1}: there are only 3 examples"):
        make_plan_on_disk("sums", num_fewshot=most + 1)


def test_the_same_file_under_two_names_is_noticed(make_plan_on_disk: Plan) -> None:
    edit("tasks/sums.yaml", "{test:", "{train: tasks/data/sums.jsonl, test:")
    edit("tasks/sums.yaml", "fewshot_split: test", "fewshot_split: train")
    with pytest.raises(UserError, match="the items themselves"):
        make_plan_on_disk("sums", num_fewshot=3)


def test_an_item_that_two_splits_share_is_not_asked_with_its_answer(
    make_plan_on_disk: Plan,
) -> None:
    shared = [{"question": f"What is {i} + {i + 1}? ", "answer": str(i)} for i in range(7, 14)]
    add_examples("sums", shared)
    with pytest.raises(UserError, match=r"task 'sums', item 7: is also an example in its own"):
        make_plan_on_disk("sums", num_fewshot=7)
    plan = make_plan_on_disk("sums", num_fewshot=7, limit=7)
    assert all(prompt.count(" 13? ") == 1 for prompt in prompts(plan))


@pytest.mark.parametrize(
    ("columns", "own"),
    [
        ({"id": 7}, ""),
        ({"answer": 6}, ""),
        ({}, 'doc_to_text: "Sum: {{question}}"'),
        ({}, 'doc_to_target: "It is {{answer}}."'),
    ],
)
@pytest.mark.parametrize("apply_chat_template", [True, False])
def test_an_item_in_another_form_is_not_asked_with_its_answer(
    make_plan_on_disk: Plan, columns: dict[str, Any], own: str, apply_chat_template: bool
) -> None:
    shared = {"answer": "6", "question": "What is 6 + 7? ", **columns}
    add_examples("sums", [{"answer": "0", "question": "None? ", **columns}, shared])
    edit("tasks/sums.yaml", "output_type", f"fewshot_config: {{{own}}}\noutput_type")
    with pytest.raises(UserError, match=r"task 'sums', item 6: is also an example in its own"):
        make_plan_on_disk("sums", num_fewshot=2, apply_chat_template=apply_chat_template)
    make_plan_on_disk("sums", num_fewshot=2, apply_chat_template=apply_chat_template, limit=6)


def test_the_items_with_other_numbers_are_noticed(make_plan_on_disk: Plan) -> None:
    items = [json.loads(line) for line in Path("tasks/data/sums.jsonl").read_text().splitlines()]
    add_examples("sums", [{"id": index, **item} for index, item in enumerate(items)])
    with pytest.raises(UserError, match="the items themselves"):
        make_plan_on_disk("sums", num_fewshot=3)


def test_a_copy_of_an_item_is_not_among_its_examples(make_plan_on_disk: Plan) -> None:
    path = Path("tasks/data/sums.jsonl")
    items = [json.loads(line) for line in path.read_text().splitlines()][:3]
    write_lines(path, [{"id": 0, **items[0]}, *({"id": 1, **item} for item in items)])
    with pytest.raises(UserError, match="item 0: is also an example in its own prompt"):
        make_plan_on_disk("sums", num_fewshot=3)


def test_a_question_with_another_answer_may_be_an_example(make_plan_on_disk: Plan) -> None:
    add_examples("sums", [{"question": "What is 6 + 7? ", "answer": "thirteen"}])
    edit("tasks/sums.yaml", "output_type", "fewshot_config: {sampler: first_n}\noutput_type")
    assert len(make_plan_on_disk("sums", num_fewshot=1).requests) == 10


@pytest.mark.parametrize(
    ("own", "says"),
    [
        ("fewshot_indices: [0]", "fewshot_indices: lm-eval would ignore it"),
        ("samples: [{question: x, answer: '1'}]", r"samples: .* beside the split of .*'test'"),
    ],
)
def test_examples_that_lm_eval_would_not_take_are_refused(
    make_plan_on_disk: Plan, own: str, says: str
) -> None:
    edit("tasks/sums.yaml", "output_type", f"fewshot_config: {{{own}}}\noutput_type")
    make_plan_on_disk("sums")
    with pytest.raises(UserError, match=says):
        make_plan_on_disk("sums", num_fewshot=1)


def test_examples_that_a_task_excludes_are_not_recorded_as_asked(make_plan_on_disk: Plan) -> None:
    edit("tasks/sums.yaml", "output_type", "num_fewshot: 0\noutput_type")
    make_plan_on_disk("sums", num_fewshot=0)
    with pytest.raises(UserError, match=r"its file says num_fewshot: 0 and .* 3"):
        make_plan_on_disk("sums", num_fewshot=3)


@pytest.mark.parametrize(
    ("task", "record", "says"),
    [
        ("sums", {"question": "x", "answer": None}, "example 1: column 'answer' is None"),
        ("sums", {"question": "x", "answer": " "}, "example 1: has no answer"),
        ("choices", {"question": "x", "label": -1}, "example 1: label -1 is none of its 3"),
    ],
)
def test_examples_without_an_answer_are_refused(
    make_plan_on_disk: Plan, task: str, record: dict[str, Any], says: str
) -> None:
    add_examples(task, [{"question": "x", "answer": "1", "label": 1}, record])
    make_plan_on_disk(task)
    with pytest.raises(UserError, match=says):
        make_plan_on_disk(task, num_fewshot=1)


@pytest.mark.parametrize(
    ("task", "record", "own", "says"),
    [
        ("sums", {"cot": None}, "doc_to_target: '{{cot}}'", "'cot' is None, and doc_to_target"),
        ("sums", {"cot": None}, "doc_to_text: '{{cot}}'", "'cot' is None, and doc_to_text"),
        ("sums", {"cot": None}, "gen_prefix: '{{cot}}'", "'cot' is None, and gen_prefix"),
        ("sums", {"cot": ""}, "doc_to_target: '{{cot}}'", "has no answer"),
        ("choices", {"label": -1}, "doc_to_text: 'Q: {{question}}'", "label -1 is none of its 3"),
        ("sums", {"cot": "y"}, "doc_to_target: '{{missing}}'", "cannot be written: .*missing"),
    ],
)
def test_examples_in_a_form_of_their_own_have_answers(
    make_plan_on_disk: Plan, task: str, record: dict[str, Any], own: str, says: str
) -> None:
    whole = {"question": "x", "answer": "1", "label": 1}
    add_examples(task, [whole | dict.fromkeys(record, 2), whole | record])
    edit(f"tasks/{task}.yaml", "output_type", f"fewshot_config: {{{own}}}\noutput_type")
    make_plan_on_disk(task)
    with pytest.raises(UserError, match=f"example [01]:.*{says}"):
        make_plan_on_disk(task, num_fewshot=1)


def test_the_text_of_examples_may_hold_their_answers(make_plan_on_disk: Plan) -> None:
    add_examples("sums", [{"question": "x", "answer": "1"}])
    own = "{sampler: first_n, doc_to_text: 'x is {{answer}}', doc_to_target: ''}"
    edit("tasks/sums.yaml", "output_type", f"fewshot_config: {own}\noutput_type")
    plan = make_plan_on_disk("sums", num_fewshot=1, apply_chat_template=False)
    assert all(prompt.startswith("x is 1What is") for prompt in prompts(plan))


@pytest.mark.parametrize("label", [0, "A", "one"])
def test_examples_show_the_option_and_not_its_letter(
    make_plan_on_disk: Plan, tokenizer: Any, label: Any
) -> None:
    edit("tasks/choices.yaml", '["A", "B", "C"]', "[one, two, three]")
    write_lines(Path("tasks/data/choices.jsonl"), [{"question": "y", "label": label}])
    add_examples("choices", [{"question": "x", "label": "C"}])
    plan = make_plan_on_disk("choices", num_fewshot=1, apply_chat_template=False)
    assert all(prompt.startswith("x three\n\n") for prompt in prompts(plan))
    answers = [
        Answer(id=request.id, logprob=-float(request.args[1] != " one") - 1, is_greedy=False)
        for request in plan.requests
    ]
    task = load_task("choices")
    scores = score_answers(plan, answers, tokenizer=tokenizer, task=task, bootstrap_iters=0)
    assert scores.metrics[0].value == 1.0


@pytest.mark.parametrize(
    ("answer", "until", "is_named"),
    [("So it is\n3", "['\\n']", True), ("So 3.", ".", True), ("So 3", "['.', '']", False)],
)
def test_answers_of_examples_that_would_be_cut_are_named(
    make_plan_on_disk: Plan,
    capsys: pytest.CaptureFixture[str],
    answer: str,
    until: str,
    is_named: bool,
) -> None:
    add_examples("sums", [{"question": f"What is {i}? ", "answer": answer} for i in range(3)])
    edit("tasks/sums.yaml", '["<|im_end|>"]', until.replace("'", '"'))
    make_plan_on_disk("sums", num_fewshot=1)
    lines = [line for line in capsys.readouterr().err.splitlines() if "fastdllm: " in line]
    assert len(lines) == is_named
    assert all(
        "3 of 3 answers of its examples" in line and "would be cut" in line for line in lines
    )


@pytest.mark.parametrize("number", ["'3'", "2.5", "true", "-1"])
def test_the_number_of_examples_is_a_whole_number(make_plan_on_disk: Plan, number: str) -> None:
    edit("tasks/sums.yaml", "output_type", f"num_fewshot: {number}\noutput_type")
    with pytest.raises(UserError, match=r"num_fewshot .* should be a whole number"):
        make_plan_on_disk("sums")
