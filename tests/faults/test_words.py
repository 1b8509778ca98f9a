"""Words that must arrive as the user typed them."""

from __future__ import annotations

import argparse

import pytest

from fastdllm.commands.options import add_model_options
from fastdllm.workflow.project.config_files import ModelChoice
from fastdllm.workflow.targets import Targets


@pytest.mark.parametrize("word", ["2024_05_01", "007", "0.9_8", "1e5", "a=b"])
def test_a_value_of_config_stays_text(word: str) -> None:
    words = ["-n", "--config", f"experiment={word}", "limit=20"]
    assert Targets.from_command_line(words).words == {"experiment": word, "limit": "20"}


def test_a_model_in_the_home_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/somewhere")
    assert ModelChoice(path="~/m").path == "/somewhere/m"
    parser = argparse.ArgumentParser()
    add_model_options(parser)
    assert parser.parse_args(["--model=~/m"]).model == "/somewhere/m"
