"""`fastdllm trace show`: the ending decides what is written; a mistake is one line."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

import fastdllm.traces
from fastdllm.cli import main
from tests.support.made_up_traces import made_up_trace


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    write("a.json")
    write("b.json", per_step=3)
    return tmp_path


def test_without_pillow_a_picture_is_refused_and_a_page_is_not(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, "fastdllm.traces.pictures", raising=False)
    monkeypatch.delattr(fastdllm.traces, "pictures", raising=False)
    monkeypatch.setitem(sys.modules, "PIL", None)
    assert main(["trace", "show", "a.json", "--output", "out.html"]) == 0
    capsys.readouterr()
    assert main(["trace", "show", "a.json", "--output", "out.png"]) == 2
    assert capsys.readouterr().err == "fastdllm: pictures need Pillow; type: pip install pillow\n"
    assert not (folder / "out.png").exists()


def write(name: str, vocab_size: int = 512, text: str = "word", **changes: Any) -> None:
    trace = made_up_trace(**changes)
    trace["model"]["vocab_size"] = vocab_size
    trace["pieces"]["100"]["text"] = text
    Path(name).write_text(json.dumps(trace), encoding="utf-8")


@pytest.mark.parametrize(
    ("arguments", "starts"),
    [
        (["a.json", "--output", "out.html"], b"<!doctype html>"),
        (["a.json", "b.json", "--output", "out.html"], b"<!doctype html>"),
        (["a.json", "--output", "out.png", "--step", "4"], b"\x89PNG"),
        (["a.json", "b.json", "--output", "new/out.gif", "--theme", "dark"], b"GIF89a"),
    ],
)
def test_the_ending_decides(
    folder: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], starts: bytes
) -> None:
    output = arguments[arguments.index("--output") + 1]
    if not output.endswith(".html"):
        pytest.importorskip("PIL", reason="pictures need Pillow, of the extra `chat`")
    assert main(["trace", "show", *arguments]) == 0
    assert capsys.readouterr().out == f"wrote {output}\n"
    assert (folder / output).read_bytes().startswith(starts)


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["a.json", "--output", "out.pdf"], "must end in .html, .png, .gif"),
        (["a.json", "--output", "out"], "must end in .html, .png, .gif"),
        (["none.json", "--output", "out.html"], "none.json"),
        (["a.json"], "--output"),
        (["a.json", "--output", "out.gif", "--step", "2"], "--step is for a .png"),
        (["a.json", "--output", "out.png", "--step", "99"], "has the steps 0 to 32"),
        (["a.json", "--output", "out.png", "--step", "-1"], "has the steps 0 to 32"),
        (["a.json", "--output", "out.html", "--theme", "dark"], "--theme is for pictures"),
        (["a.json", "c.json", "--output", "out.html"], "other vocabularies (of 512 and 600 "),
        (["a.json", "d.json", "--output", "out.html"], "(token 100 is 'word' and 'Wort'), so"),
        (["a.json", "--output", "a.json/out.html"], "a.json/out.html"),
    ],
)
def test_a_mistake_is_one_line(
    folder: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], line: str
) -> None:
    write("c.json", vocab_size=600)
    write("d.json", text="Wort")
    before = sorted(path.name for path in folder.iterdir())
    assert main(["trace", "show", *arguments]) == 2
    written = capsys.readouterr()
    assert line in written.err and written.err.count("\n") == 1 and written.out == ""
    assert sorted(path.name for path in folder.iterdir()) == before
