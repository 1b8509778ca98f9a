"""What Tab offers, and where typed lines are kept."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest
from prompt_toolkit.completion import CompleteEvent
from prompt_toolkit.document import Document
from prompt_toolkit.history import FileHistory, InMemoryHistory

from fastdllm.chat.line_input import WordCompleter, _history
from fastdllm.chat.talk import COMMANDS, DEFAULT, WITH_PATHS, offers
from fastdllm.settings import LAYER_SUBSETS, DecodingSettings


def completed(line: str) -> list[str]:
    completer = WordCompleter(offers, WITH_PATHS)
    found = completer.get_completions(Document(line), CompleteEvent())
    return [line[: len(line) + one.start_position] + one.text for one in found]


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("/", list(COMMANDS)),
        ("/s", ["/set", "/show", "/steps", "/system", "/save"]),
        ("/set ", [f"/set {name}" for name in DecodingSettings.model_fields]),
        ("/set thr", ["/set threshold"]),
        ("/set layer_subset ", [f"/set layer_subset {x}" for x in (DEFAULT, *LAYER_SUBSETS)]),
        ("/set use_block_cache t", ["/set use_block_cache true"]),
        ("/set reuse_k 2 layer_s", ["/set reuse_k 2 layer_subset"]),
        ("/set nothing t", []),
        ("/steps o", ["/steps on", "/steps off"]),
        ("How many pens", []),
        ("", list(COMMANDS)),
    ],
)
def test_tab_offers_what_may_follow(line: str, expected: list[str]) -> None:
    assert completed(line) == expected


def test_tab_completes_files(tmp_path: Path) -> None:
    (tmp_path / "talk one.json").touch()
    assert completed(f"/load {tmp_path}/ta") == [f"/load {tmp_path}/talk one.json"]


def test_history_is_for_its_owner_alone_also_where_it_was_not(tmp_path: Path) -> None:
    path = tmp_path / "fastdllm" / "chat_history"
    for _ in range(2):
        assert isinstance(_history(path), FileHistory)
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
        path.chmod(0o644)


def test_a_history_that_cannot_be_kept_is_said(tmp_path: Path, capsys) -> None:
    (tmp_path / "fastdllm").touch()
    kept = _history(tmp_path / "fastdllm" / "chat_history")
    assert isinstance(kept, InMemoryHistory)
    assert "no history is kept: " in capsys.readouterr().err
    assert isinstance(_history(None), InMemoryHistory)
