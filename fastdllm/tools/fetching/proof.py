"""Prove that a task can be planned and scored without a network, as its jobs have none.

A metric may import a package, or read data of nltk, only when it scores; a job would find that out
after hours of decoding. So a process that may not use the network plans some items of the task,
which scores dummy answers. This module is that process, too.
"""

from __future__ import annotations

import os
import runpy
import socket
import subprocess
import sys
from typing import Any

from fastdllm.common.errors import UserError
from fastdllm.common.files import temporary_folder

# Planning two items renders prompts, and builds filters and metrics; all data is loaded anyway.
_ITEMS = "2"
_OFFLINE = ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "HF_EVALUATE_OFFLINE")


def prove_offline(task: str) -> None:
    """Plan two items of a task, and score dummy answers, in a process without a network.

    What is missing may be something that scoring itself fetches, so a second try follows one with
    the network.

    Raises:
        UserError: that failed, so jobs would fail as well.
    """
    offline = dict.fromkeys(_OFFLINE, "1")
    reason = _problem(task, __name__, offline)
    if reason is None:
        return
    # With local data, plan asks the hub for nothing, unless told otherwise.
    online = {name: os.environ.get(name, "0") for name in _OFFLINE}
    other = _problem(task, "fastdllm", online)
    if reason == other:
        raise UserError(f"task {task!r}: its data is here, but it cannot be planned: {reason}")
    if other is not None or (reason := _problem(task, __name__, offline)) is not None:
        raise UserError(
            f"task {task!r}: cannot be planned and scored without a network, which jobs lack "
            f"({reason}); what it needs has to be here, such as a local file instead of an address"
        )


def _problem(task: str, module: str, variables: dict[str, str]) -> str | None:
    """Plan in a process that runs a module; return why that failed."""
    with temporary_folder("fastdllm-fetch-") as folder:
        command = [sys.executable, "-m", module, "plan", "--task", task, "--limit", _ITEMS]
        completed = subprocess.run(
            [*command, "--output", folder],
            env={**os.environ, **variables},
            capture_output=True,
            text=True,
            check=False,
        )
    if completed.returncode == 0:
        return None
    lines = completed.stderr.strip().splitlines() or [f"exit code {completed.returncode}"]
    return lines[-1].removeprefix("fastdllm: ")


def refuse_network(event: str, arguments: tuple[Any, ...]) -> None:
    """Fail what looks for a host or connects to one: an audit hook, which sees every library."""
    to_host = event == "socket.connect" and arguments[0].family != socket.AF_UNIX
    if to_host or event in ("socket.getaddrinfo", "socket.gethostbyname"):
        raise ConnectionError("it looks for the network")


if __name__ == "__main__":
    sys.addaudithook(refuse_network)
    runpy.run_module("fastdllm", run_name="__main__", alter_sys=True)
