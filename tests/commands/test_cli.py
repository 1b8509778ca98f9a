"""The command line: an answer with its figures, and one line for each mistake."""

from __future__ import annotations

import subprocess
import sys

import pytest

from fastdllm.cli import COMMANDS, main
from fastdllm.tasks.generation import AnswerText

QUESTION = "Tom has 12 apples. He buys 5 apples. How many apples does Tom have now?"


def run(capsys, *arguments):
    code = main(list(arguments))
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_generate_prints_an_answer_and_one_line_of_figures(capsys):
    code, out, err = run(capsys, "generate", QUESTION)
    assert (code, err) == (0, "")
    *answer, stats = out.strip().split("\n")
    assert any(line.startswith("#### ") for line in answer)
    for part in ("tokens/s", "passes: ", "tokens per forward", "float32", "threshold 0.9"):
        assert part in stats


def test_generate_shows_each_pass(capsys):
    code, out, _ = run(capsys, "generate", QUESTION, "--show-steps", "--threshold", "1.0")
    assert code == 0
    assert "full_block" in out
    assert "sub_block" in out
    assert "▁" in out  # positions that are still masked
    steps = [line for line in out.split("\n") if " full_block " in line or " sub_block " in line]
    assert len(steps) >= 10  # one token per step


def test_an_answer_moves_no_cursor_at_a_terminal(monkeypatch, capsys):
    answer = "a\x1b[2Jb"
    monkeypatch.setattr(AnswerText, "text", lambda *_, **__: answer)
    _, out, _ = run(capsys, "generate", QUESTION)
    assert out.startswith(answer + "\n")
    monkeypatch.setenv("FORCE_COLOR", "1")
    _, out, _ = run(capsys, "generate", QUESTION)
    assert out.startswith("a␛[2Jb\n")


def test_each_setting_is_an_option(capsys):
    options = ("--reuse-k", "2", "--layer-subset", "last", "--seed", "1", "--max-new-tokens", "9")
    code, out, _ = run(capsys, "generate", QUESTION, *options, "--dtype", "float32")
    assert code == 0
    assert "truncated at max_new_tokens 9" in out
    code, out, _ = run(capsys, "generate", QUESTION, "--no-use-block-cache")
    assert code == 0
    assert "sub-block" not in out


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["genrate"], "unknown command 'genrate'; did you mean 'generate'?"),
        (["generate"], "the following arguments are required: prompt"),
        (["generate", " "], "the prompt is empty"),
        (
            ["generate", "x", "--treshold", "1"],
            "unknown argument --treshold; did you mean --thresh",
        ),
        (["generate", "x", "--threshold", "2"], "threshold: '2' is not allowed"),
        (["generate", "x", "--threshold", "high"], "threshold: 'high' is not allowed"),
        (["generate", "x", "--layer-subset", "last"], "needs reuse_k as well"),
        (["generate", "x", "--max-new-tokens", "0"], "max_new_tokens: '0' is not allowed"),
        (["generate", "x", "--max-new-tokens", "99999"], "exceed the model's"),
        (["generate", "x", "--model", "models/absent/x"], "no such folder"),
        (["generate", "x", "--model", "models/tyni"], "did you mean 'models/tiny'?"),
        (["generate", "x", "--stop-token", "99999"], "stop_token 99999 is outside"),
        (
            ["generate", "x", "--dtype", "float31"],
            "unknown dtype 'float31'; did you mean 'float32'",
        ),
        (["generate", "x", "--device", "gpu"], "unknown device 'gpu'"),
        (["--directory", "/absent", "status"], "--directory /absent: No such file or directory"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(capsys, arguments, line):
    code, out, err = run(capsys, *arguments)
    assert code == 2
    assert out == ""
    assert err.count("\n") == 1
    assert line in err


def test_help_lists_every_command(capsys):
    code, out, _ = run(capsys)
    assert code == 0
    assert all(name in out for name in COMMANDS)
    for name in COMMANDS:
        with pytest.raises(SystemExit) as end:
            main([name, "--help"])
        assert end.value.code == 0
        assert "usage: fastdllm" in capsys.readouterr().out


@pytest.mark.slow
def test_a_closed_pipe_is_no_error():
    command = f"{sys.executable} -m fastdllm --help | head -n 1"
    done = subprocess.run(["bash", "-c", command], check=True, capture_output=True, text=True)
    assert done.stderr == ""
    assert done.stdout.startswith("usage: fastdllm")
