"""Tables for files and terminals."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

from fastdllm.records.summary import Git, Hardware, Items, Summary, pack_bits
from fastdllm.report.groups import grouped
from fastdllm.report.text_tables import terminal_table, write_tables


def changed(summary: Summary, **fields: Any) -> Summary:
    return summary.model_copy(update=fields)


def likelihood_run(summary: Summary) -> Summary:
    absent = ("throughput", "passes", "tokens_per_forward", "latency_s", "truncation_rate")
    return changed(summary, task="choice_problems", **dict.fromkeys(absent))


def test_csv_holds_numbers_and_keeps_the_order(a_summary: Summary, tmp_path: Path) -> None:
    rows = [changed(a_summary, config=name) for name in ("k2_last", "k1_first", "k3_middle")]
    written = write_tables(["00_baseline"], [*rows, likelihood_run(a_summary)], tmp_path)
    assert [path.name for path in written] == ["table.md", "table.csv"]
    table = list(csv.DictReader(written[1].open()))
    assert [row["config"] for row in table[:3]] == ["k2_last", "k1_first", "k3_middle"]
    assert float(table[0]["tokens_per_s"]) == 1234.5
    assert float(table[0]["full_block_per_answer"]) == 4.0
    assert table[3]["tokens_per_s"] == "" and float(table[3]["accuracy"]) == 0.8


def test_terminal_table_fits_80_columns(a_summary: Summary) -> None:
    rows = [changed(a_summary, config=name) for name in ("k1_middle", "k3_middle")]
    text = terminal_table(grouped(rows), width=80)
    assert all(len(line) <= 80 for line in text.splitlines() if line.startswith(("k", "config")))
    for shown in ("k1_middle", "80.0", "3.50", "1,234", "25 %"):
        assert shown in text
    assert "choice" not in text


def test_narrow_terminal_says_what_is_hidden(a_summary: Summary) -> None:
    text = terminal_table(grouped([a_summary]), width=50)
    assert "(hidden in this narrow window: prefill" in text


def test_likelihood_table_says_that_settings_do_not_matter(a_summary: Summary) -> None:
    text = terminal_table(grouped([likelihood_run(a_summary)]))
    assert "decoding settings do not touch it" in text and "tok/s" not in text


def test_speed_of_other_hardware_is_marked(a_summary: Summary) -> None:
    gpu = Hardware(device="cuda", name="Quadro RTX 6000")
    other = changed(a_summary, config="k2_last", hardware=[gpu])
    text = terminal_table(grouped([a_summary, a_summary, other]))
    assert "1,234*" in text and "not comparable in tok/s" in text and "Quadro RTX 6000" in text


def test_speed_of_a_run_that_had_to_shrink_is_marked(a_summary: Summary, tmp_path: Path) -> None:
    how = {**a_summary.eval_params, "smallest_batch_size": 8}
    shrunk = changed(a_summary, config="k2_last", eval_params=how, out_of_memory=2)
    text = terminal_table(grouped([a_summary, a_summary, shrunk]))
    assert "1,234*" in text and "batch size 32, in parts 8" in text
    _, path = write_tables(["00_baseline"], [a_summary, shrunk], tmp_path)
    rows = list(csv.DictReader(path.open()))
    assert [row["smallest_batch_size"] for row in rows] == ["", "8"]
    assert [row["out_of_memory"] for row in rows] == ["", "2"]


def test_dirty_tree_is_marked(a_summary: Summary) -> None:
    dirty = changed(a_summary, git=Git(commit="c" * 40, dirty=True))
    assert "k1_first +" in terminal_table(grouped([dirty]))


def test_an_alarm_stands_below_the_table(a_summary: Summary) -> None:
    first = changed(a_summary, computation="c")
    wrong = changed(first, config="k1_last", items=Items(n=5, correct_bits=pack_bits([False] * 5)))
    assert "ALARM: k1_first and k1_last must give" in terminal_table(grouped([first, wrong]))


def test_an_experiment_without_results_shows_no_old_rows(
    a_summary: Summary, tmp_path: Path
) -> None:
    assert write_tables(["00_baseline"], [], tmp_path) == [], "no table where there was none"
    write_tables(["00_baseline"], [a_summary], tmp_path)
    table, _ = write_tables(["00_baseline"], [], tmp_path)
    assert "k1_first" not in table.read_text()
    assert "No run of the current settings" in table.read_text()


def test_the_caption_says_where_a_metric_scored_other_numbers_of_items(a_summary: Summary) -> None:
    fewer = [metric.model_copy(update={"n": 3}) for metric in a_summary.metrics]
    runs = [changed(a_summary, config="t0.5", metrics=fewer, items=None), a_summary]
    n = a_summary.primary.n
    assert f"{n} items;" in terminal_table(grouped([a_summary]), width=80)
    assert f"3 to {n} items (those that the metric" in terminal_table(grouped(runs), width=200)
