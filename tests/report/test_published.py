"""Published figures stand beside runs of their model, task and settings, and beside no others."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest
import yaml

from fastdllm.common.errors import UserError
from fastdllm.common.paths import TASKS
from fastdllm.records.published import PUBLISHED_FILE, published, read_published
from fastdllm.records.summary import Hardware, Summary
from fastdllm.report.content import build_report
from fastdllm.report.groups import grouped
from fastdllm.report.page_tables import PUBLISHED, headings, table_rows
from fastdllm.report.published_figures import figures_of, speeds
from fastdllm.report.text_tables import terminal_table, write_tables
from fastdllm.settings import DecodingSettings
from fastdllm.tasks.task_files import Folder, TaskFiles, helpers_of
from fastdllm.tasks.task_source import TaskSource
from fastdllm.workflow.project.digests import FileDigests, task_digests

SEVEN_B = "Efficient-Large-Model/Fast_dLLM_v2_7B"
COMPARED = {one.figure.task: one.task for one in published() if one.task is not None}
A100 = Hardware(device="cuda", name="NVIDIA A100-SXM4-80GB")


def run_of(a_summary: Summary, *, task: str = "gsm8k", **changes: Any) -> Summary:
    """A whole run of the 7B model on an A100, as published in Table 1 but for `changes`."""
    decides = {f"decoding.{k}": v for k, v in DecodingSettings().model_dump().items()}
    decides |= {"model": SEVEN_B, "task": task, "num_fewshot": None, "apply_chat_template": True}
    decides["decoding.threshold"] = 1.0
    given = {key.replace("__", "."): changes.pop(key) for key in list(changes) if "__" in key}
    own = ("model", "num_fewshot", "apply_chat_template", "likelihood_mode")
    given |= {key: changes.pop(key) for key in own if key in changes}
    whole = dict(a_summary.eval_params)
    if task in COMPARED:
        of_task = COMPARED[task]
        whole |= {"n_items": of_task.n_items, "task_definition": of_task.definition}
    changes["eval_params"] = whole | changes.get("eval_params", {})
    values = {"task": task, "decides": decides | given, "hardware": [A100], "dtype": "bfloat16"}
    return Summary.model_validate(a_summary.model_dump() | values | changes)


def shown(summary: Summary) -> list[float]:
    return [one.figure.accuracy for one in figures_of(summary) if one.figure.accuracy]


def test_every_figure_of_the_file_names_its_source_and_its_model() -> None:
    figures = published()
    assert {one.model.rpartition("_")[2] for one in figures} == {"7B", "1.5B"}
    assert all(one.source and one.words.startswith(one.source) for one in figures)
    shown = [one.figure for one in figures if one.task and one.settings and one.figure.accuracy]
    assert shown and all("apply_chat_template" in figure.asked for figure in shown)
    table_1 = {
        (one.model, one.figure.task): one.figure.accuracy
        for one in figures
        if "Table 1" in one.source
    }
    assert len(table_1) == 18
    assert table_1[SEVEN_B, "gsm8k"] == 83.7


@pytest.mark.parametrize(
    ("changes", "accuracies"),
    [
        ({}, [83.7]),
        ({"num_fewshot": 0}, [83.7]),
        ({"decoding__use_block_cache": False}, [83.7]),
        ({"decoding__max_new_tokens": 2048}, [83.7]),
        ({"task": "minerva_math"}, [61.6]),
        ({"model": SEVEN_B.replace("7B", "1.5B")}, [62.0]),
        # The model that ships with the project, or a folder.
        ({"model": "local"}, []),
        ({"task": "word_problems"}, []),
        ({"decoding__threshold": 0.95}, []),
        ({"decoding__small_block_size": 4}, []),
        ({"decoding__reuse_k": 2, "decoding__layer_subset": "first"}, []),
        ({"decoding__lookahead_depth": 1}, []),
        ({"policy_parameters__tau": 0.1}, []),
        ({"apply_chat_template": False}, []),
        ({"num_fewshot": 5}, []),
        ({"task": "humaneval"}, [63.4]),
        # The source does not say how many examples: as the task's file has it.
        ({"task": "humaneval", "num_fewshot": 3}, []),
        # Settings of the fork, which decoded in float16.
        ({"decoding__threshold": 0.9, "dtype": "float16"}, [80.44]),
        ({"decoding__threshold": 0.9, "dtype": "bfloat16"}, []),
    ],
)
def test_a_figure_fits_the_same_model_task_and_settings_only(
    a_summary: Summary, changes: dict, accuracies: list[float]
) -> None:
    assert shown(run_of(a_summary, **changes)) == accuracies


def test_beside_a_limited_run_stands_nothing(a_summary: Summary) -> None:
    assert figures_of(run_of(a_summary, eval_params={"limit": 5})) == ()


def test_beside_a_run_of_an_edited_task_stands_nothing(a_summary: Summary) -> None:
    for definition in ("0" * 64, None):  # None: of an earlier summary
        assert shown(run_of(a_summary, eval_params={"task_definition": definition})) == []


@pytest.mark.parametrize("task", sorted(COMPARED))
def test_figures_are_of_the_tasks_as_this_project_ships_them(
    task: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(PUBLISHED_FILE.parents[1])
    folder = Folder(TASKS)
    assert list(folder.single_tasks(TaskSource.named(task).file))
    helpers = tuple(dict.fromkeys(helpers_of(folder.used)))
    files = TaskFiles(tuple(folder.used.items()), helpers, data=())
    definition = task_digests(files, FileDigests()).definition
    assert COMPARED[task].definition == definition, (
        f"{task} was edited: if prompts and metric are as published all the same, write "
        f"`definition: {definition}` in {PUBLISHED_FILE.name}; else take its line out there"
    )


def test_beside_a_run_of_other_data_stands_nothing(a_summary: Summary) -> None:
    assert shown(run_of(a_summary, eval_params={"n_items": 40})) == []


def test_decoding_settings_decide_nothing_where_likelihoods_are_compared(
    a_summary: Summary,
) -> None:
    absent = dict.fromkeys(["passes", "tokens_per_forward", "throughput", "latency_s"])
    gpqa = {"task": "gpqa", "decoding__threshold": 0.9, **absent}
    assert shown(run_of(a_summary, likelihood_mode="published", **gpqa)) == [31.9]
    assert shown(run_of(a_summary, likelihood_mode="chain", **gpqa)) == []
    assert shown(run_of(a_summary, task="mmlu", decoding__block_size=64, **absent)) == []


def test_tables_have_the_columns_only_where_there_is_a_figure(
    a_summary: Summary, tmp_path: Path
) -> None:
    fast = run_of(a_summary, config="fast", decoding__threshold=0.9)
    seven_b = [run_of(a_summary), fast]
    text = terminal_table(grouped(seven_b), width=200)
    head, first, second = (
        next(line for line in text.splitlines() if line.startswith(start))
        for start in ("config", "k1_first", "fast")
    )
    assert head.split("published")[2].startswith(" tok/s")
    assert " 83.7 " in first and "83.7" not in second
    assert "39.1" in first and "101.7" in second
    notes = [line for line in text.splitlines() if line.startswith("published: figures of others")]
    assert len(notes) == 1
    assert "arXiv 2509.26328, Table 1 and A.4: 83.7 %; metric not stated; threshold 1.0" in notes[0]
    assert "101.7 tokens/s; threshold 0.9; A100; batch size not stated" in notes[0]
    plain = terminal_table(grouped([a_summary]), width=200)
    assert "published" not in plain
    for summaries, has in ((seven_b, True), ([a_summary], False)):
        _, path = write_tables(["00_baseline"], summaries, tmp_path)
        rows = list(csv.DictReader(path.open()))
        assert ("published_accuracy" in rows[0]) is has
        assert not has or [row["published_accuracy"] for row in rows] == ["83.7", ""]


def test_the_page_has_the_column_only_where_there_is_a_figure(a_summary: Summary) -> None:
    for summary, has in ((run_of(a_summary), True), (a_summary, False)):
        task = build_report([summary], titles={}).tasks[0]
        names = [name for name, _ in headings(task)]
        (row,) = table_rows(task)
        assert len(names) == len(row.cells)
        assert (PUBLISHED in names) is has
        if has:
            cell = row.cells[names.index(PUBLISHED)]
            assert (cell.text, cell.key) == ("83.7", 83.7)
            assert cell.more == "arXiv 2509.26328, Table 1 and A.4 (metric not stated)"


def test_a_speed_is_shown_on_its_gpu_at_its_batch_size_only(a_summary: Summary) -> None:
    figures = [one for one in published() if one.source.endswith("Figure 1")]
    four = {"batch_size": 4}
    assert speeds(figures, run_of(a_summary, eval_params=four)) == [217.5]
    assert speeds(figures, run_of(a_summary)) == []
    h100 = [Hardware(device="cuda", name="NVIDIA H100 80GB HBM3")]
    assert speeds(figures, run_of(a_summary, eval_params=four, hardware=h100)) == []


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"source": ""}, "publications.0.source"),
        ({"settings": {"treshold": 1.0}}, "treshold"),
        ({"settings": {"threshold": 2.0}}, "threshold"),
        ({"figures": [{"task": "gsm8k", "acuracy": 83.7}]}, "did you mean 'accuracy'"),
        ({"figures": [{"task": "gsm8k", "accuracy": 837}]}, "accuracy"),
        ({"figures": []}, "figures"),
    ],
)
def test_a_mistake_in_the_file_names_its_key(tmp_path: Path, change: dict, says: str) -> None:
    file = tmp_path / "published.yaml"
    values = yaml.safe_load(PUBLISHED_FILE.read_text())
    file.write_text(yaml.safe_dump({"publications": [values["publications"][0] | change]}))
    with pytest.raises(UserError) as caught:
        read_published(file)
    assert says in str(caught.value) and "\n" not in str(caught.value)
