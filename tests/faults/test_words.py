"""Words that must arrive as the user typed them."""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path

import pytest

from fastdllm.cli import main
from fastdllm.commands.options import add_model_options
from fastdllm.common.errors import UserError
from fastdllm.common.yaml_files import read_yaml_mapping
from fastdllm.workflow.project.config_files import ModelChoice
from fastdllm.workflow.targets import Targets


@pytest.mark.parametrize("word", ["2024_05_01", "007", "0.9_8", "1e5", "a=b"])
def test_a_value_of_config_stays_text(word: str) -> None:
    words = ["-n", "--config", f"experiment={word}", "limit=20"]
    assert Targets.from_command_line(words).words == {"experiment": word, "limit": "20"}


@pytest.mark.parametrize(
    ("words", "right"),
    [
        ("--config limit=20 report", "report --config limit=20"),
        ("-n --config limit=20 a b task=c", "a b -n --config limit=20 task=c"),
        ("-C task --profile profiles/pace", "task -C --profile profiles/pace"),
        ("all -j 2 --config 'task=a b' aggregate", "aggregate all -j 2 --config 'task=a b'"),
    ],
)
def test_a_target_behind_config_is_told_with_the_right_order(
    capsys: pytest.CaptureFixture[str], words: str, right: str
) -> None:
    assert main(["submit", *shlex.split(words)]) == 2
    line = capsys.readouterr().err
    assert line.count("\n") == 1
    assert "is no key=value; targets stand before it: " in line
    assert line.endswith(f"fastdllm submit {right}\n")


@pytest.mark.parametrize(
    "text",
    [
        "a: !!int ''\n",
        "a: !!bool x\n",
        "a: !!timestamp x\n",
        "[" * 5000,
        "a: 9" + "9" * 5000,
        "a: \0",
        "a: &x [*x]",
    ],
)
def test_a_yaml_file_without_a_value_is_refused_in_one_line(tmp_path: Path, text: str) -> None:
    file = tmp_path / "a.yaml"
    file.write_text(text)
    with pytest.raises(UserError) as caught:
        read_yaml_mapping(file, what="a file")
    assert str(caught.value).startswith(str(file))
    assert "not valid YAML" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_model_in_the_home_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/somewhere")
    assert ModelChoice(path="~/m").path == "/somewhere/m"
    parser = argparse.ArgumentParser()
    add_model_options(parser)
    assert parser.parse_args(["--model=~/m"]).model == "/somewhere/m"
