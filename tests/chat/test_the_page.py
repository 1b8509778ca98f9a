"""What docs/chat.md shows is what one gets."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.forks import run_fastdllm
from tests.support.small_project import ROOT

PAGE = (ROOT / "docs" / "chat.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```\n(.*?)^```", PAGE, flags=re.M | re.S)
CLOCK = re.compile(r"in [0-9.]+ s \([0-9]+ tokens/s\)")


def chat(typed: str, folder: Path = ROOT) -> str:
    """What `fastdllm chat` prints when these lines are typed."""
    done = run_fastdllm("chat", folder=folder, typed=typed)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


@pytest.mark.slow
def test_the_conversation_of_the_page_is_repeated() -> None:
    start, conversation = BLOCKS[:2]
    assert start == "fastdllm chat\n"
    typed = [line[2:] for line in conversation.splitlines() if line.startswith("> ")]
    shown = [line for line in conversation.splitlines() if not line.startswith("> ")]
    output = chat("".join(f"{line}\n" for line in typed))
    assert CLOCK.sub("", output) == CLOCK.sub("", "".join(f"{line}\n" for line in shown))


@pytest.mark.slow
def test_the_pipe_of_the_page_answers() -> None:
    (command,) = BLOCKS[2:]
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-c", command],
        env=os.environ | {"PATH": path},
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "#### 52\n" in done.stdout
    assert "threshold 0.5" in done.stdout


@pytest.mark.slow
def test_each_command_of_the_table_works(tmp_path: Path) -> None:
    rows = re.findall(r"^\| (`[^|]+`) \|", PAGE, flags=re.M)
    typed = [command for row in rows for command in re.findall(r"`([^`]+)`", row)]
    typed += re.findall(r"where they need each other: `([^`]+)`", PAGE)
    assert len(typed) >= 10
    lines = "".join(f"{line}\n" for line in typed)
    assert "saved" in chat(lines, tmp_path)
