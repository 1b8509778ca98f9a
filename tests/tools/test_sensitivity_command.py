"""`fastdllm sensitivity` on the embedded model, its calibration items, and its refusals."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from fastdllm.cli import main
from fastdllm.common.errors import UserError
from fastdllm.model.config import EMBEDDED_MODEL
from fastdllm.settings import DecodingSettings
from fastdllm.tools.sensitivity import measurement
from fastdllm.tools.sensitivity.calibration import CALIBRATION, read_questions, refuse_test_items
from fastdllm.tools.sensitivity.measurement import measure_passes
from fastdllm.tools.sensitivity.sensitivity_record import SensitivityRecord

TASKS = CALIBRATION.parent


def read(path):
    return SensitivityRecord.model_validate_json(path.read_text())


@pytest.mark.parametrize("name", ["word_problems.jsonl", "word_problems_confirm.jsonl.bz2"])
def test_test_items_are_refused(name):
    path = TASKS / name
    with pytest.raises(UserError, match=rf"3 of its questions are test items of {name}"):
        refuse_test_items(read_questions(path, 3), path)
    assert refuse_test_items(read_questions(CALIBRATION), CALIBRATION) is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no questions in it"),
        ("{", "line 1: not valid JSON"),
        ('{"question": "a"}\n{"text": "b"}', 'line 2: needs a "question"'),
        ('{"question": " "}', 'line 1: needs a "question"'),
        ("[1]", 'line 1: needs a "question"'),
    ],
)
def test_a_broken_data_file_is_one_line(tmp_path, text, message):
    path = tmp_path / "x.jsonl"
    path.write_text(text)
    with pytest.raises(UserError, match=message):
        read_questions(path)


def test_a_cut_archive_is_one_line(tmp_path):
    path = tmp_path / "x.jsonl.bz2"
    path.write_bytes((TASKS / "word_problems_confirm.jsonl.bz2").read_bytes()[:1000])
    with pytest.raises(UserError, match="cannot be unpacked"):
        read_questions(path)


def test_blank_lines_are_no_questions_and_the_count_is_kept(tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_text('{"question": "a"}\n\n{"question": "b"}\n{"question": "c"}\n')
    assert read_questions(path, 2) == ["a", "b"]


def test_the_command_measures_writes_and_publishes(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    command = ["sensitivity", "--items", "3", "--stride", "5", "--publish", "--threads", "1"]
    assert main([*command, "--saving", "0.4"]) == 0
    record = read(Path("results/sensitivity/tiny.json"))
    published = Path("artifacts/sensitivity/tiny.json")
    assert published.read_text() == Path("results/sensitivity/tiny.json").read_text()
    assert (record.model, record.n_items, record.layers) == ("models/tiny", 3, 14)
    assert len(record.token_changed) == len(record.input_change) == 14
    assert {len(row) for row in record.delta_change} == {record.steps} == {len(record.passes)}
    # The first pass of a block is a full-block pass, which reuses nothing.
    assert record.passes[0] == 0
    assert {row[0] for row in record.token_changed} == {None}
    # At masked positions the first layer is always given the embedding of the mask.
    assert {value for value in record.input_change[0] if value is not None} == {0.0}
    log = Path("results/sensitivity/tiny.passes.jsonl").read_text().splitlines()
    assert len(log) == sum(record.passes) > 0
    shown = capsys.readouterr().out
    pasted = shown.partition("layer_subset: [")[2].partition("]")[0]
    start, stop = map(int, pasted.split(","))
    assert stop - start >= 0.4 * 14
    assert DecodingSettings(layer_subset=f"{start}:{stop}", reuse_k=2).layer_subset == (start, stop)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--saving", "0"], "it should be a share above 0, up to 1"),
        (["--items", "0"], "it should be a whole number from 1"),
        (["--data", "none.jsonl"], "cannot read none.jsonl"),
        (["--no-use-block-cache"], "use_block_cache: only sub-block passes can reuse layers"),
        (["--reuse-k", "2", "--layer-subset", "first"], "reuse_k: sensitivity measures the plain"),
        (["--temperature", "0.5"], "temperature: sensitivity compares the most likely tokens"),
        (["--model", "nowhere"], "no such folder"),
        (["--output", "."], "--output: . is a folder; a file has to go there"),
        (["--output", "/dev/null/x.json"], "cannot write /dev/null/x.json"),
        (["--item", "3"], "did you mean --items?"),
        (
            ["--items", "1", "--small-block-size", "32", "--max-new-tokens", "1"],
            "no sub-block pass in the whole run",
        ),
    ],
)
def test_a_mistake_is_one_line(tmp_path, monkeypatch, capsys, options, message):
    monkeypatch.chdir(tmp_path)
    assert main(["sensitivity", *options]) == 2
    shown = capsys.readouterr().err.strip().splitlines()
    assert message in shown[-1]
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_the_place_to_publish_is_tried_before_measuring(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "artifacts").write_text("not a folder")
    monkeypatch.setattr(
        "fastdllm.tools.sensitivity.measurement.measure_passes",
        lambda *_: pytest.fail("measured"),
    )
    assert main(["sensitivity", "--publish", "--items", "1"]) == 2
    assert "cannot write artifacts/sensitivity/tiny.json" in capsys.readouterr().err


def test_a_record_of_another_model_of_that_name_is_not_replaced(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(EMBEDDED_MODEL, "other/tiny")
    record = Path("artifacts/sensitivity/tiny.json")
    command = ["sensitivity", "--items", "1", "--stride", "14", "--threads", "1"]
    assert main([*command, "--publish"]) == 0
    written = record.read_text()
    to_another = ["--model", "other/tiny", "--output", "other.json"]
    capsys.readouterr()
    assert main([*command, *to_another, "--publish"]) == 2
    line = capsys.readouterr().err
    assert f"--publish: {record} holds what was measured of models/tiny; move it away" in line
    assert record.read_text() == written and not Path("other.json").exists()
    assert main([*command, *to_another]) == 0
    assert main([*command, *to_another, "--model", "./other/tiny/"]) == 0
    assert main([*command, "--publish"]) == 0


def test_weights_that_are_replaced_while_they_are_measured_are_refused(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(EMBEDDED_MODEL, "mine")

    def measure(*arguments):
        measured = measure_passes(*arguments)
        weights = Path("mine/model.safetensors")
        weights.write_bytes(weights.read_bytes()[:-4] + bytes(4))
        return measured

    monkeypatch.setattr(measurement, "measure_passes", measure)
    command = ["sensitivity", "--model", "mine", "--items", "1", "--stride", "14", "--threads", "1"]
    assert main([*command, "--output", "record.json"]) == 2
    assert "mine: its files changed while it was measured" in capsys.readouterr().err
    assert not Path("record.json").exists()


def test_prompts_that_do_not_fit_are_left_out_and_told(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    fitting = read_questions(CALIBRATION, 2)
    data = tmp_path / "mixed.jsonl"
    data.write_text("".join(json.dumps({"question": q}) + "\n" for q in ["x " * 9000, *fitting]))
    assert main(["sensitivity", "--data", "mixed.jsonl", "--stride", "7", "--threads", "1"]) == 0
    assert "items left out: 1; the first: request 0" in capsys.readouterr().err
    assert read(Path("results/sensitivity/tiny.json")).n_items == 2
