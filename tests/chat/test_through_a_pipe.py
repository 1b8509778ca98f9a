"""`fastdllm chat` through a pipe: a line is a question or a command, and a mistake ends it."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path

import pytest

from fastdllm.cli import main
from tests.support.forks import run_fastdllm

QUESTION = "Tom has 12 apples. He buys 5 apples. How many apples does Tom have now?"


@pytest.fixture
def chat(monkeypatch, capsys):
    """Run a chat on lines; return exit code, output and error."""

    def run(*lines: str, options: tuple[str, ...] = ()) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "stdin", io.StringIO("".join(f"{line}\n" for line in lines)))
        code = main(["chat", *options])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


def without_times(text: str) -> str:
    """The text up to the figures that a clock decides."""
    return text.partition(" tokens in ")[0]


def test_a_question_has_the_answer_and_figures_of_generate(chat, capsys) -> None:
    for options in ((), ("--threshold", "0.5"), ("--max-new-tokens", "9", "--seed", "1")):
        main(["generate", QUESTION, *options])
        expected = capsys.readouterr().out
        code, out, err = chat(QUESTION, options=options)
        assert (code, err) == (0, "")
        assert without_times(out) == without_times(expected)
        assert out.partition("passes: ")[2] == expected.partition("passes: ")[2]


def test_settings_change_between_questions_and_the_turns_are_cleared(chat, capsys) -> None:
    main(["generate", QUESTION, "--threshold", "0.5", "--show-steps"])
    expected = capsys.readouterr().out
    code, out, _ = chat(
        QUESTION, "/set threshold=0.5", "clear", "/steps", QUESTION, "exit", "never"
    )
    assert code == 0
    *_, answer = out.partition("steps are shown\n")
    assert without_times(answer) == without_times(expected)
    assert "never" not in out


def test_settings_that_need_each_other_are_set_together(chat) -> None:
    code, out, _ = chat(
        "/set reuse_k 2 layer_subset last", "/set reuse_k default layer_subset default"
    )
    assert (code, out) == (0, "reuse_k 2, layer_subset last\nreuse_k 1, layer_subset null\n")


def test_show_names_what_holds(chat) -> None:
    code, out, _ = chat("/system be brief", "/set threshold 0.8", "/show", "/system", "/show")
    assert code == 0
    rows = [line.split(maxsplit=1) for line in out.splitlines()]
    assert ["threshold", "0.8"] in rows
    assert [row for row in rows if row[0] == "system"] == [
        ["system", "be brief"],
        ["system", "none"],
    ]
    assert ["turns", "0"] in rows


def test_a_conversation_goes_on_where_it_was_saved(chat, tmp_path: Path) -> None:
    path = tmp_path / "talk.json"
    _, whole, _ = chat(QUESTION, QUESTION)
    chat(QUESTION, f"/save {path}")
    code, out, _ = chat(f"/load {path}", QUESTION)
    assert code == 0
    second = whole.split("batch 1\n")[1]
    assert without_times(out) == "1 turn loaded\n" + without_times(second)


def test_the_oldest_turns_go_aloud_when_the_context_is_full(chat, tmp_path: Path) -> None:
    path = tmp_path / "talk.json"
    turns = [{"question": f"{number} " * 400, "answer": "x"} for number in range(4)]
    path.write_text(json.dumps({"turns": turns}))
    after = tmp_path / "after.json"
    code, out, _ = chat(f"/load {path}", QUESTION, f"/save {after}", options=FULL)
    assert code == 0
    assert "the context is full: the oldest 2 turns went\n" in out
    kept = json.loads(after.read_text())["turns"]
    assert [turn["question"] for turn in kept] == [
        turns[2]["question"],
        turns[3]["question"],
        QUESTION,
    ]


FULL = ("--max-new-tokens", "40")


@pytest.mark.parametrize(
    ("lines", "error"),
    [
        (["/stes on"], "unknown command '/stes'; did you mean '/steps'? valid: /clear, /exit,"),
        (["/set treshold 1"], "/set: unknown key 'treshold'; did you mean 'threshold'?"),
        (["/set threshold high"], "/set: threshold: 'high' is not allowed"),
        (["/set threshold"], "/set takes names with values, such as /set threshold 0.8"),
        (["/set reuse_k 2 layer_subset 0:99"], "ends after the 14 layers of the model"),
        (["/set stop_token 99999"], "stop_token 99999 is outside the model's vocabulary"),
        (["/steps maybe"], "/steps takes on or off, not 'maybe'"),
        (["/clear all"], "/clear takes nothing after it"),
        (["/load"], "/load takes the name of a file"),
        (["/load models/tiny/model.safetensors"], "model.safetensors: not valid JSON"),
        (["/load README.md"], "README.md: not valid JSON"),
        (["/save models/tiny/config.json"], "is there already, and is no conversation"),
        (["pens " * 2000], "the question has 2011 tokens with the chat template, and beside"),
    ],
)
def test_a_mistake_is_one_line_and_ends_the_chat(chat, lines: list[str], error: str) -> None:
    code, out, err = chat(*lines, QUESTION)
    assert (code, out) == (2, "")
    assert err.startswith("fastdllm: ")
    assert error in err
    assert err.count("\n") == 1


def test_a_question_that_spells_special_tokens_is_text(chat, tmp_path, capsys) -> None:
    question = "What is |<MASK>|<|im_end|>?"
    saved = tmp_path / "talk.json"
    code, out, err = chat(question, f"/save {saved}", QUESTION, options=FULL)
    assert (code, err) == (0, "")
    main(["generate", question, *FULL])
    expected = capsys.readouterr().out
    assert out.startswith(without_times(expected))
    assert json.loads(saved.read_text())["turns"][0]["question"] == question


def test_a_question_that_holds_the_mask_token_is_refused(chat) -> None:
    code, out, err = chat("Is 3 < 4?", options=("--mask-id", "27"))
    assert (code, out) == (2, "")
    assert err.startswith("fastdllm: the prompt holds the mask token 27, which")


def test_nothing_to_read_is_no_mistake(chat) -> None:
    assert chat() == (0, "", "")
    assert chat("", "  ") == (0, "", "")


@pytest.mark.slow
def test_bytes_that_are_no_text_are_refused_and_lines_may_end_as_on_windows() -> None:
    for typed, code, said in (
        (b"/set threshold 0.8\r\n", 0, "threshold 0.8\n"),
        (b"caf\xe9?\n", 2, "fastdllm: the line is not UTF-8 text"),
    ):
        done = run_fastdllm("chat", folder=Path.cwd(), typed=typed)
        assert done.returncode == code, done.stderr
        assert (done.stdout + done.stderr).startswith(said)
