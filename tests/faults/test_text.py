"""Bytes that are no text, and letters that a terminal cannot show."""

from __future__ import annotations

import errno
import io
import sys
from pathlib import Path

import pytest

from fastdllm.cli import main
from fastdllm.commands import env
from fastdllm.common.errors import UserError
from fastdllm.common.files import write_text_atomically
from fastdllm.common.yaml_files import read_yaml_mapping
from fastdllm.decoding.policy_files import load_policy
from fastdllm.tasks.local_data import read_splits

# "café" in latin-1, as Python hands over bytes that are not UTF-8.
LATIN_1 = b"caf\xe9".decode(errors="surrogateescape")
SHORT = ["--max-new-tokens", "8"]


def run(
    monkeypatch: pytest.MonkeyPatch, *arguments: str, piped: bytes = b"", encoding: str = "utf-8"
) -> tuple[int, str]:
    """Run a command whose streams have an encoding; returns its exit code and standard output."""
    out = io.BytesIO()
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(piped), encoding=encoding))
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(out, encoding=encoding))
    code = main(list(arguments))
    return code, out.getvalue().decode(encoding)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["generate", LATIN_1], r"argument 'caf\udce9' is not UTF-8 text"),
        (["generate", "-"], "the prompt is not UTF-8 text"),
        (["generate", "x", "--threshold", LATIN_1], r"argument 'caf\udce9' is not UTF-8 text"),
        (["status", f"--task={LATIN_1}"], r"argument '--task=caf\udce9' is not UTF-8 text"),
        (["generate", "\ud800"], r"argument '\ud800' is not UTF-8 text"),
    ],
)
def test_bytes_that_are_no_text_are_refused(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    says: str,
) -> None:
    assert run(monkeypatch, *arguments, piped=b"caf\xe9") == (2, "")
    error = capsys.readouterr().err
    assert says in error
    assert error.count("\n") == 1


def test_a_prompt_is_utf_8_whatever_the_locale(monkeypatch: pytest.MonkeyPatch) -> None:
    _, expected = run(monkeypatch, "generate", "café?", *SHORT)
    for encoding in ("ascii", "utf-8"):
        code, out = run(
            monkeypatch, "generate", "-", *SHORT, piped="café?".encode(), encoding=encoding
        )
        assert (code, out.split("\n")[0]) == (0, expected.split("\n")[0])


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_each_pass_is_shown_on_any_terminal(monkeypatch: pytest.MonkeyPatch, encoding: str) -> None:
    code, out = run(monkeypatch, "generate", "Hi", "--show-steps", *SHORT, encoding=encoding)
    assert code == 0
    assert "sub_block" in out
    assert "_" * 4 in out  # positions that are still masked


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (
            UnicodeEncodeError("ascii", "modèle", 3, 4, "ordinal not in range(128)"),
            "names of files are ascii, which lacks 'è'; type: export PYTHONUTF8=1",
        ),
        (
            PermissionError(errno.EACCES, "Permission denied", "/private/model"),
            "cannot use /private/model: Permission denied; make it readable",
        ),
    ],
)
def test_what_the_system_refuses_is_one_line(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    error: Exception,
    says: str,
) -> None:
    def refuse(_: object) -> int:
        raise error

    monkeypatch.setattr(env, "run", refuse)
    monkeypatch.setattr(sys, "getfilesystemencoding", lambda: "ascii")
    assert main(["env"]) == 2
    printed = capsys.readouterr().err
    assert says in printed
    assert printed.count("\n") == 1


@pytest.mark.usefixtures("project")
def test_what_a_terminal_cannot_show_is_escaped(monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = ["plan", "--task", "sums", "--output", "é"]
    code, out = run(monkeypatch, *arguments, encoding="ascii")
    assert code == 0
    assert out.endswith("-> \\xe9\n")


def test_a_name_that_is_no_text_is_never_half_written(tmp_path: Path) -> None:
    file = tmp_path / "record.json"
    file.write_text("old")
    with pytest.raises(UserError, match=r"is not UTF-8 text; if it is a file or folder, rename it"):
        write_text_atomically(file, f"file {LATIN_1}")
    assert [path.name for path in tmp_path.iterdir()] == ["record.json"]
    assert file.read_text() == "old"


def test_a_policy_is_loaded_from_a_folder_whose_name_is_no_text(tmp_path: Path) -> None:
    (tmp_path / LATIN_1).mkdir()
    file = tmp_path / LATIN_1 / "generation_functions.py"
    file.write_text("from fastdllm.policy import Policy\n\n\nclass Plain(Policy):\n    pass\n")
    assert load_policy(file).__name__ == "Plain"


def test_a_prompt_from_closed_input_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdin", None)
    assert main(["generate", "-"]) == 2
    assert "standard input is closed" in capsys.readouterr().err


def test_closed_output_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdout", None)
    assert main(["status"]) == 2
    assert capsys.readouterr().err == (
        "fastdllm: standard output is closed; > /dev/null drops what is printed\n"
    )


def test_half_a_character_is_refused_with_its_place(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text('model:\n  path: "\\ud800"\n')
    with pytest.raises(UserError, match=r"a\.yaml, line 2: not valid YAML: half a character"):
        read_yaml_mapping(tmp_path / "a.yaml", what="a file")
    (tmp_path / "a.jsonl").write_text('{"q": "\\ud83d\\ude00"}\n{"q": ["\\ud83d"]}\n')
    with pytest.raises(UserError, match=r"a\.jsonl, line 2, column 'q': half a character"):
        read_splits("json", {"test": [tmp_path / "a.jsonl"]})
