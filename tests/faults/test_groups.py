"""Which task a name means, and what the score of a group or of a part of its items is made of."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fastdllm.common.errors import UserError
from fastdllm.runs.answer_records import Answer
from fastdllm.runs.scoring import Scores, score_answers
from fastdllm.tasks.lm_eval_tasks import load_task
from fastdllm.tasks.local_tasks import LocalTask
from fastdllm.tasks.task_files import find_task_files
from fastdllm.tasks.task_source import TaskSource
from tests.support.run_project import write_lines
from tests.support.small_project import edit

pytestmark = pytest.mark.usefixtures("project")

Score = Callable[[str], Scores]
GROUP = """\
group: both
task: [sums, few]
aggregate_metric_list:
  - {metric: exact_match, aggregation: mean, weight_by_size: true, filter_list: number}
"""


@pytest.fixture
def score(make_plan_on_disk: Callable[..., Any], tokenizer: Any) -> Score:
    """Score a task whose model answers every sum with 1: one of the ten is right."""

    def scored(name: str) -> Scores:
        plan = make_plan_on_disk(name)
        answers = [Answer(id=r.id, token_ids=(ord("1"),)) for r in plan.requests]
        task = load_task(name)
        return score_answers(plan, answers, tokenizer=tokenizer, task=task, bootstrap_iters=0)

    return scored


def write_group(text: str = GROUP) -> Path:
    """Write the group of the ten sums and of one more, which is right."""
    write_lines(Path("tasks/data/few.jsonl"), [{"question": "1 + 0", "answer": "1"}])
    text_of_few = Path("tasks/sums.yaml").read_text().replace("sums", "few")
    Path("tasks/few.yaml").write_text(text_of_few)
    Path("tasks/both.yaml").write_text(text)
    return Path("tasks/both.yaml")


@pytest.mark.parametrize(
    "other",
    [
        "task: sums\ndataset_path: json\n",
        "task: other\ntag: sums\n",
        "include: sums.yaml\ndoc_to_text: 'Q: {{question}}'\n",
    ],
)
def test_another_file_of_the_same_name_does_not_take_the_place(other: str) -> None:
    Path("tasks/a_copy.yaml").write_text(other)
    with pytest.raises(UserError, match=r"lm-eval would take that, not tasks/sums\.yaml; let"):
        load_task("sums")


@pytest.mark.parametrize("file", ["tasks/folder/sums.yaml", "tasks/other.yaml"])
def test_a_task_in_another_file_than_that_of_its_name_is_refused(file: str) -> None:
    Path("tasks/folder").mkdir()
    Path("tasks/sums.yaml").rename(file)
    with pytest.raises(UserError, match=rf"tasks/sums\.yaml: no such file; {file} names it, but"):
        load_task("sums")


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("doc_to_txt: x", "^task 'sums': unknown key 'doc_to_txt'; did you mean 'doc_to_text'"),
        ("fewshot_config: {doc_to_txt: x}", "cannot be loaded: TypeError: .*'doc_to_txt'"),
    ],
)
def test_a_key_that_lm_eval_does_not_have_is_named(line: str, says: str) -> None:
    edit("tasks/sums.yaml", "output_type", f"{line}\noutput_type")
    with pytest.raises(UserError, match=says):
        load_task("sums")


def test_two_files_of_one_name_are_no_member_of_a_group() -> None:
    file = write_group()
    find_task_files(TaskSource(file))
    shutil.copy("tasks/few.yaml", "tasks/few copy.yaml")
    with pytest.raises(UserError, match=r"few copy\.yaml and tasks/few\.yaml: both name"):
        find_task_files(TaskSource(file))


@pytest.mark.parametrize(
    "members", ["[sums, sums]", "[sums, {task: sums, num_fewshot: 1}]", "[sums, inner]"]
)
def test_a_task_that_is_twice_in_a_group_is_refused(members: str) -> None:
    file = write_group(GROUP.replace("[sums, few]", members))
    Path("tasks/inner.yaml").write_text(GROUP.replace("both", "inner"))
    with pytest.raises(UserError, match=r"both\.yaml: task 'sums' occurs twice in the group"):
        find_task_files(TaskSource(file))


def test_a_group_counts_all_its_tasks(score: Score) -> None:
    write_group()
    edit("tasks/few.yaml", "name: number", "name: digit")
    with pytest.raises(UserError, match="'exact_match,number' is none of its subtask 'few'"):
        score("both")


def test_a_group_needs_no_filter_list(score: Score) -> None:
    write_group(GROUP.replace(", filter_list: number", ""))
    assert score("both").metrics[0].value == pytest.approx(2 / 11, abs=1e-6)


OWN = """\
group: own
doc_to_target: "{{answer}}"
aggregate_metric_list: [{metric: exact_match, weight_by_size: true}]
task:
  - sums
  - group: inner
    aggregate_metric_list: [{metric: exact_match, weight_by_size: true}]
    dataset_path: json
    output_type: generate_until
    test_split: test
    doc_to_text: "{{question}}"
    generation_kwargs: {until: [], max_gen_toks: 24}
    filter_list: [{name: number, filter: [{function: regex, regex_pattern: "(.*)"}]}]
    metric_list: [{metric: exact_match, aggregation: mean, higher_is_better: true}]
    task:
      - {task: one, dataset_kwargs: {data_files: {test: tasks/data/one.jsonl}}}
      - task: two
        doc_to_text: "2: {{question}}"
        dataset_kwargs: {data_files: {test: tasks/data/two.jsonl}}
"""


def test_tasks_that_a_group_defines_itself_are_read_as_those_of_files(score: Score) -> None:
    Path("tasks/own.yaml").write_text(OWN)
    for name, answer in (("one", 1.5), ("two", 1)):
        write_lines(Path(f"tasks/data/{name}.jsonl"), [{"question": "?", "answer": answer}])
    leaves = load_task("own").leaves
    assert list(leaves) == ["sums", "one", "two"], "by the names that the group gives them"
    assert all(isinstance(leaf, LocalTask) for leaf in leaves.values())
    two = leaves["two"]
    assert (two.doc_to_text(two.eval_docs[0]), two.doc_to_target(two.eval_docs[0])) == ("2: ?", "1")
    scores = score("own")
    assert scores.metrics[0].value == pytest.approx(2 / 12, abs=1e-6)
    edit("tasks/own.yaml", '        doc_to_text: "2', '        doc_to_txt: "2')
    with pytest.raises(UserError, match="task 'two': unknown key 'doc_to_txt'; did you mean"):
        load_task("own")


@pytest.mark.parametrize(("weighted", "value"), [("true", 2 / 11), ("false", (0.1 + 1) / 2)])
def test_items_are_published_where_their_share_is_the_score(
    score: Score, weighted: str, value: float
) -> None:
    write_group(GROUP.replace("size: true", f"size: {weighted}"))
    scores = score("both")
    assert scores.metrics[0].value == pytest.approx(value, abs=1e-6)
    assert (scores.items is not None) == (weighted == "true")


def test_a_metric_of_some_items_counts_these(score: Score) -> None:
    Path("tasks/helpers.py").write_text(
        "def scored(doc, results):\n"
        "    return {'acc': doc['answer'] == '1'} if doc['answer'] < '4' else {}\n"
    )
    edit("tasks/sums.yaml", "metric: exact_match", "metric: acc")
    edit("tasks/sums.yaml", '"exact_match,number"', '"acc,number"')
    path = Path("tasks/sums.yaml")
    path.write_text(f"{path.read_text()}process_results: !function helpers.scored\n")
    scores = score("sums")
    (metric,) = scores.metrics
    assert (metric.value, metric.n, metric.interval_method) == (0.25, 4, "wilson")
    assert scores.items is None
    assert len(scores.samples) == 10


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("metric: exact_match, aggregation: mean", "metric: bleu, aggregation: bleu"),
        ("aggregation: mean", "aggregation: !function helpers.percent"),
    ],
)
def test_a_score_that_is_no_share_is_not_shown_as_one(
    make_plan_on_disk: Callable[..., Any], old: str, new: str
) -> None:
    Path("tasks/helpers.py").write_text("def percent(scores):\n    return 50.0\n")
    edit("tasks/sums.yaml", old, new)
    if "bleu" in new:
        edit("tasks/sums.yaml", '"exact_match,number"', '"bleu,number"')
    with pytest.raises(UserError, match=r"its primary metric '.*,number' is no share of 1"):
        make_plan_on_disk("sums")


@pytest.mark.parametrize("name", ["sums", "both"])
def test_a_score_of_which_less_is_better_is_not_taken_for_accuracy(
    make_plan_on_disk: Callable[..., Any], name: str
) -> None:
    write_group()
    for task in ("sums", "few"):
        edit(f"tasks/{task}.yaml", "higher_is_better: true", "higher_is_better: false")
    with pytest.raises(UserError, match=r"its primary metric 'exact_match,number' less is better"):
        make_plan_on_disk(name)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("  - {metric", "  - {metric: exact_match, ignore_case: true}\n  - {metric"),
        ("  - {metric", "  - {metric: !function own.exact_match, aggregation: mean}\n  - {metric"),
        ("  - name", "  - {name: number, filter: [{function: take_first}]}\n  - name"),
    ],
)
def test_a_metric_or_filter_does_not_replace_another_of_its_name(old: str, new: str) -> None:
    Path("tasks/own.py").write_text("def exact_match(references, predictions):\n    return 0.5\n")
    edit("tasks/sums.yaml", old, new)
    with pytest.raises(UserError, match="is there twice, of which lm-eval uses only the last"):
        load_task("sums")


@pytest.mark.parametrize(
    ("metrics", "says"),
    [
        ("[{metric: exact_match}]", None),
        ("[{metric: acc}]", "counts any score of 'acc' above 0 as 1"),
        ("[{metric: exact_match}, {metric: acc_norm}]", "any score of 'acc_norm' above 0"),
        (
            "[{metric: exact_match}, {metric: !function helpers.own, aggregation: mean}]",
            r"any score of 'own' above 0 .* in a function of your own \(process_results\)",
        ),
    ],
)
def test_of_several_right_answers_one_is_enough_and_none_is_too_few(
    score: Score, metrics: str, says: str | None
) -> None:
    sums = [{"question": f"What is {i}?", "answer": [str(i), "x"]} for i in range(10)]
    write_lines(Path("tasks/data/sums.jsonl"), sums)
    Path("tasks/helpers.py").write_text("def own(references, predictions):\n    return 0.5\n")
    edit("tasks/sums.yaml", 'doc_to_target: "{{answer}}"', "doc_to_target: answer")
    text = Path("tasks/sums.yaml").read_text().partition("metric_list")[0]
    Path("tasks/sums.yaml").write_text(f"{text}metric_list: {metrics}\n")
    if says is None:
        assert {metric.value for metric in score("sums").metrics} == {0.1}
    else:
        with pytest.raises(UserError, match=says):
            score("sums")


@pytest.mark.parametrize(
    ("line", "key"),
    [
        ("gen_prefix: questoin", "gen_prefix"),
        ("description: questoin", "description"),
        ("fewshot_config: {doc_to_text: questoin}", "fewshot_config.doc_to_text"),
        ("fewshot_config: {doc_to_target: anser}", "fewshot_config.doc_to_target"),
        ("fewshot_config: {gen_prefix: anser}", "fewshot_config.gen_prefix"),
        ("gen_prefix: 'Answer:'\ndescription: 'Questions: '", None),
        ("fewshot_config: {doc_to_text: '{{question}}', gen_prefix: So}", None),
        ("fewshot_config: {doc_to_text: 'It is {{answer}}', doc_to_target: ''}", None),
    ],
)
def test_a_misspelt_column_is_refused_wherever_it_would_be_a_text(
    line: str, key: str | None
) -> None:
    edit("tasks/sums.yaml", "output_type", f"{line}\noutput_type")
    if key is None:
        load_task("sums")
    else:
        with pytest.raises(UserError, match=f"^task 'sums': {key} .* is no column .* did you mean"):
            load_task("sums")


@pytest.mark.parametrize("name", ["optons", "my options"])
def test_options_that_are_no_column_are_refused(name: str) -> None:
    edit("tasks/choices.yaml", '["A", "B", "C"]', name)
    with pytest.raises(UserError, match=f"^task 'choices': doc_to_choice: unknown column '{name}'"):
        load_task("choices")


@pytest.mark.parametrize("name", ["Question Txt", "question"])
def test_a_column_of_several_words_may_be_misspelt(name: str) -> None:
    path = Path("tasks/data/sums.jsonl")
    path.write_text(path.read_text().replace('"question"', '"Question Text"'))
    edit("tasks/sums.yaml", 'doc_to_text: "{{question}}"', f"doc_to_text: {name}")
    with pytest.raises(UserError, match=f"doc_to_text '{name}' is no column .* 'Question Text'"):
        load_task("sums")
