"""The table of all results: a type for each column, each run once, nothing dropped in silence."""

from __future__ import annotations

import json
from pathlib import Path

import pandas
import pytest

from fastdllm import UserError, results
from fastdllm.records.summary import Summary, write_summary


@pytest.fixture(autouse=True)
def _in_an_empty_project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "artifacts").mkdir()


def write(summary: Summary, folder: str = "results") -> Path:
    path = Path(folder, summary.experiment, summary.task, summary.config, "summary.json")
    path.parent.mkdir(parents=True, exist_ok=True)
    write_summary(path, summary)
    return path


def test_without_results_the_table_is_empty_and_has_its_columns() -> None:
    assert len(results()) == len(results("items")) == 0
    assert {"accuracy", "threshold", "tokens_per_s"} <= set(results().columns)


def test_a_folder_that_is_no_project_has_no_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path / "artifacts")
    with pytest.raises(UserError, match=r"has neither results/ nor artifacts/; change to the"):
        results()


def test_a_run_is_there_once_with_typed_values(a_summary: Summary) -> None:
    write(a_summary, "artifacts")
    path = write(a_summary)
    write(a_summary.model_copy(update={"fingerprint": "e" * 64}), "artifacts")
    other = {"config": "k2", "throughput": None, "decides": {"policy_parameters.skip": 2}}
    write(a_summary.model_copy(update=other), "artifacts")
    table = results()
    assert table["config"].tolist() == ["k1_first", "k1_first", "k2"]
    first, last = table.iloc[0], table.iloc[2]
    assert (first["path"], first["accuracy"], first["low"]) == (str(path), 0.8, 0.3755)
    assert first["timestamp"] == pandas.Timestamp("2026-01-01T00:00:00Z")
    assert (first["reuse_k"], first["tokens_per_s"], first["n_items"]) == (1, 1234.5, 5)
    assert last["parameters"] == '{"skip": 2}'
    assert last[["tokens_per_s", "reuse_k", "limit"]].isna().all()
    assert str(table["reuse_k"].dtype) == str(table["limit"].dtype) == "Int64"
    assert str(table["tokens_per_s"].dtype) == "Float64"
    assert str(table["use_block_cache"].dtype) == "boolean"
    assert results(config="k2")["config"].tolist() == ["k2"]


def test_the_limit_of_answers_is_the_one_that_counted(a_summary: Summary) -> None:
    of_generation = a_summary.eval_params | {"max_gen_toks": 2048}
    write(a_summary.model_copy(update={"eval_params": of_generation}))
    row = results().iloc[0]
    assert (row["max_new_tokens"], row["metric"]) == (2048, "exact_match,number")
    of_generation.pop("max_gen_toks")  # nothing was generated
    write(a_summary.model_copy(update={"eval_params": of_generation}))
    assert results()["max_new_tokens"].isna().all()


def test_items_are_those_of_samples_or_of_the_bits(a_summary: Summary) -> None:
    write(a_summary, "artifacts")
    bits = results("items")
    assert bits["correct"].tolist() == [True, True, False, True, True]
    assert bits["answer"].isna().all()
    sample = {"task": "word_problems", "item": 0, "prompt": "p", "target": 3, "correct": False}
    sample |= {"answer": "a\u2028b", "tokens": 4, "finish_reason": "stop"}
    path = write(a_summary).with_name("samples.jsonl")
    path.write_text(json.dumps(sample, ensure_ascii=False) + "\n", encoding="utf-8")
    (row,) = results("items").to_dict("records")
    assert (row["answer"], row["tokens"], row["correct"]) == ("a\u2028b", 4, False)
    assert row["target"] == "3"


def test_a_damaged_summary_is_named(a_summary: Summary, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(a_summary)
    path.write_text(path.read_text().replace("0.8", "0.9", 1))
    assert len(results()) == 0
    assert f"left out: {path}" in capsys.readouterr().err


def test_other_rows_are_refused() -> None:
    with pytest.raises(UserError, match="should be runs or items"):
        results("tasks")
