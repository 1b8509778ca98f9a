"""`fastdllm chat` in a real pseudo-terminal, with the embedded model."""

from __future__ import annotations

import json
import os
import re
import signal
import stat
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from fastdllm import DecodingSettings, Request, generate, load_model
from fastdllm.chat.talk import COMMANDS
from fastdllm.model.config import EMBEDDED_MODEL
from fastdllm.model.tokenizer import load_tokenizer, prompt_ids
from fastdllm.serving.conversation import Conversation, Turn
from fastdllm.tasks.generation import AnswerText
from tests.support.terminal import Terminal

pytestmark = pytest.mark.slow

QUESTION = "Tom has 3 boxes with 12 pens each. He loses 9 pens. How many pens does Tom have now?"
RIGHT = "Tom has 3*12=36 pens. Then he has 36-9=27 pens.\n#### 27"
OTHER = "Lena has 10 cups. Leo has 42 cups. How many cups do they have together?"
STOP, EXIT = "\x03", "exit\r"
# Long, and without the model's stop token: there is time to stop it.
ENDLESS = ("--threshold", "1", "--max-new-tokens", "1800", "--stop-token", "511")


@cache
def _loaded() -> tuple[Any, Any]:
    return load_model(EMBEDDED_MODEL, device="cpu", dtype="float32"), load_tokenizer(
        str(EMBEDDED_MODEL)
    )


def answer(question: str, *earlier: Turn, system: str = "", **values: Any) -> str:
    """The answer that `generate` gives to the question at the end of a conversation."""
    model, tokenizer = _loaded()
    ids = Conversation(system=system, turns=[*earlier]).prompt_ids(tokenizer, question)
    (made,) = generate(model, [ids], DecodingSettings(**values))
    return AnswerText(tokenizer, until=None).text(made.token_ids, finish_reason=made.finish_reason)


def beginning(length: int) -> str:
    """At least so many letters of the answer that `ENDLESS` asks for."""
    model, tokenizer = _loaded()
    text = AnswerText(tokenizer, until=None).text
    asked = Request(prompt_ids(tokenizer, QUESTION), stop_when=lambda ids: len(text(ids)) >= length)
    wanted = DecodingSettings(threshold=1.0, max_new_tokens=1800, stop_token=511)
    return text(generate(model, [asked], wanted)[0].token_ids)


def chat(home: Path, *options: str, columns: int = 100, **env: str) -> Terminal:
    """Start a chat in a terminal, and wait until it can be typed into."""
    told = ("NO_COLOR", "COLUMNS", "LINES")
    kept = {name: value for name, value in os.environ.items() if name not in told}
    changed = {"HOME": str(home), "XDG_STATE_HOME": str(home), "TERM": "xterm", **env}
    terminal = Terminal(["chat", *options], env=kept | changed, columns=columns)
    terminal.wait_for("\n>")
    return terminal


def test_the_model_solves_its_own_problem_and_the_turns_are_kept(tmp_path: Path) -> None:
    saved, history = tmp_path / "talk.json", tmp_path / "fastdllm" / "chat_history"
    with chat(tmp_path) as terminal:
        terminal.type(f"{QUESTION}\r")
        text = terminal.wait_for("batch 1")
        assert answer(QUESTION) == RIGHT
        assert f"\n{RIGHT}\n30 tokens in " in text
        terminal.type("/set treshold 0.5\r")
        terminal.wait_for("did you mean 'threshold'?")
        terminal.type("/set threshold 2\r")
        terminal.wait_for("/set: threshold: '2' is not allowed")
        terminal.type("/sav x\r")
        terminal.wait_for("unknown command '/sav'; did you mean '/save'?")
        terminal.type("/set threshold 0.5 max_new_tokens 40\r")
        terminal.wait_for("threshold 0.5, max_new_tokens 40")
        terminal.type(f"{OTHER}\r")
        terminal.wait_for("batch 1", times=2)
        terminal.type(f"/save {saved}\r")
        terminal.wait_for("2 turns saved\n>")
        terminal.type(STOP)
        terminal.wait_for("Ctrl-D or exit ends the chat")
        terminal.type(EXIT)
        assert terminal.wait_for_end() == 0
    first = Turn(question=QUESTION, answer=RIGHT)
    second = answer(OTHER, first, threshold=0.5, max_new_tokens=40)
    kept = [first, Turn(question=OTHER, answer=second)]
    assert json.loads(saved.read_text()) == Conversation(turns=kept).model_dump()
    assert f"+{QUESTION}\n" in history.read_text()
    assert stat.S_IMODE(history.stat().st_mode) == 0o600


def test_ctrl_c_stops_the_answer_and_not_the_program(tmp_path: Path) -> None:
    saved = tmp_path / "talk.json"
    with chat(tmp_path, *ENDLESS) as terminal:
        terminal.type(f"{QUESTION}\r")
        assert "▁" in terminal.wait_for(f"{QUESTION}\nTom")
        terminal.type(STOP)
        text = terminal.wait_for("stopped | ")
        assert "▁" not in text
        assert "^C" not in text
        terminal.wait_for_end_of("\n>")
        terminal.type(f"/save {saved}\r")
        terminal.wait_for("1 turn saved")
        terminal.type("/clear\r")
        terminal.wait_for("cleared")
        terminal.type("/set stop_token default threshold default max_new_tokens default\r")
        terminal.wait_for("stop_token null, threshold 0.9")
        terminal.type(f"{QUESTION}\r")
        assert f"\n{RIGHT}\n30 tokens in " in terminal.wait_for("30 tokens in ")
        terminal.wait_for_end_of("batch 1\n>")
        terminal.type("\x04")
        assert terminal.wait_for_end() == 0
    (turn,) = json.loads(saved.read_text())["turns"]
    assert turn["stopped"]
    assert turn["answer"]
    assert beginning(len(turn["answer"])).startswith(turn["answer"])


def test_a_killed_chat_leaves_the_terminal_as_it_was(tmp_path: Path) -> None:
    with chat(tmp_path, *ENDLESS) as terminal:
        terminal.type(f"{QUESTION}\r")
        terminal.wait_for(f"{QUESTION}\nTom")
        assert not terminal.has_echo
        assert terminal.screen.cursor.hidden
        terminal.process.send_signal(signal.SIGTERM)
        assert terminal.wait_for_end() == 128 + signal.SIGTERM
        terminal.read_rest()
        assert terminal.has_echo
        assert not terminal.screen.cursor.hidden


def test_forty_columns_and_no_colour(tmp_path: Path) -> None:
    with chat(tmp_path, columns=40, NO_COLOR="1") as terminal:
        terminal.type("/help\r")
        assert all(name in terminal.wait_for("Anything else is") for name in COMMANDS)
        terminal.type(f"{QUESTION}\r")
        text = terminal.wait_for("batch 1")
        assert "Tom has 3*12=36 pens. Then he has\n36-9=27 pens.\n#### 27\n30 tokens in " in text
        terminal.type("/steps on\r")
        terminal.wait_for("steps are shown")
        terminal.type("/clear\r")
        terminal.wait_for("cleared")
        terminal.type(f"{QUESTION}\r")
        assert "full_block" in terminal.wait_for("batch 1", times=2)
        terminal.type(EXIT)
        assert terminal.wait_for_end() == 0
        assert not colours(terminal.output)


def test_sixteen_colours_are_the_terminals_own(tmp_path: Path) -> None:
    with chat(tmp_path, TERM="xterm-256color", COLORTERM="truecolor") as terminal:
        terminal.type("/se\t")
        terminal.wait_for("/set")
        terminal.type("\x15/set layer_subset mi\t")
        terminal.wait_for("layer_subset middle")
        terminal.type("\r")
        terminal.wait_for("needs reuse_k as well")
        terminal.type("/steps on\r")
        terminal.wait_for("steps are shown")
        terminal.type(f"{QUESTION}\r")
        terminal.wait_for("batch 1")
        terminal.type(EXIT)
        assert terminal.wait_for_end() == 0
        assert colours(terminal.output) <= {*range(30, 38), *range(90, 98), 39, 49}
        assert colours(terminal.output) & {*range(30, 38)}


def colours(output: bytes) -> set[int]:
    """The codes that set a colour in the output; 38 and 48 are for other than the 16 named."""
    codes = b";".join(re.findall(rb"\x1b\[([0-9;]+)m", output)).split(b";")
    return {int(code) for code in codes if code and (30 <= int(code) < 50 or int(code) >= 90)}


def test_a_dumb_terminal_gets_no_control_codes(tmp_path: Path) -> None:
    with chat(tmp_path, *ENDLESS, TERM="dumb") as terminal:
        terminal.type(f"{QUESTION}\n")
        terminal.wait_for(f"{QUESTION}\nTom")
        terminal.type(STOP)
        terminal.wait_for("stopped | ")
        terminal.type("\n/set stop_token default max_new_tokens default\n")
        terminal.wait_for("stop_token null")
        terminal.type("/clear\n")
        terminal.wait_for("cleared")
        terminal.type(f"{QUESTION}\n")
        terminal.wait_for("batch 1", times=2)
        terminal.wait_for_end_of("\n>")
        terminal.type(STOP)
        terminal.wait_for("Ctrl-D or exit ends the chat")
        terminal.type("exit\n")
        assert terminal.wait_for_end() == 0
        assert b"\x1b" not in terminal.output
