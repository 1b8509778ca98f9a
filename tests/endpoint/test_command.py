"""`fastdllm serve`: starts with one line, ends cleanly, and says in one line what is wrong."""

from __future__ import annotations

import json
import re
import signal
import socket
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from fastdllm.cli import main
from tests.endpoint.running import LIMIT_S
from tests.support.small_project import ROOT

# Twice in one process, which takes seconds to start.
TWICE = """
from fastdllm.cli import main
for _ in range(2):
    print("code", main(["serve", "--port", "0", "--threshold", "1"]), flush=True)
"""


@pytest.mark.slow
def test_a_signal_ends_it_and_tells_those_who_are_served() -> None:
    started = subprocess.Popen(
        [sys.executable, "-c", TWICE],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with started:
        assert started.stdout is not None
        assert started.stderr is not None
        for number in (signal.SIGINT, signal.SIGTERM):
            line = started.stdout.readline()
            address = re.fullmatch(
                r"tiny on cpu: http://127.0.0.1:(\d+)/v1 \(Ctrl-C ends\)\n", line
            )
            assert address, (line, started.stderr.read())
            streams = [_stream(int(address[1])) for _ in range(3)]
            begun = [there.recv(65536) for there in streams]
            started.send_signal(number)
            for there, beginning in zip(streams, begun, strict=True):
                with closing(there):
                    rest = b"".join(iter(lambda there=there: there.recv(65536), b""))
                assert (beginning + rest).startswith(b"HTTP/1.1 200")
                assert b'"code":"closed"' in rest
            assert started.stdout.readline() == "code 0\n"
        assert started.wait(LIMIT_S) == 0
        assert started.stderr.read() == ""


def _stream(port: int) -> socket.socket:
    """Ask for a stream of one token per pass without end: far longer than a signal takes."""
    body = {"prompt": "Tom", "stream": True, "max_tokens": 1900, "stop_token": 500}
    sent = json.dumps(body).encode()
    head = f"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(sent)}"
    there = socket.create_connection(("127.0.0.1", port), LIMIT_S)
    there.sendall(head.encode() + b"\r\n\r\n" + sent)
    return there


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--host", "0.0.0.0"], "--host 0.0.0.0 lets other machines ask, which needs a key"),
        (["--port", "99999"], "'99999' is not allowed; it should be from 0 to 65535"),
        (["--port", "http"], "'http' is not allowed; it should be from 0 to 65535"),
        (["--timeout", "0"], "should be a whole number from 1"),
        (["--key-file", "nowhere"], "--key-file nowhere: No such file or directory"),
        (["--threshold", "2"], "threshold: '2' is not allowed"),
        (["--port", "0", "--model", "nowhere"], "nowhere"),
        (["--port", "0", "--reuse-k", "2", "--layer-subset", "0:99"], "the 14 layers of the model"),
        (["--prot", "8000"], "did you mean --port?"),
    ],
)
def test_a_mistake_is_one_line(capsys, monkeypatch, options: list[str], said: str) -> None:
    monkeypatch.delenv("FASTDLLM_KEY", raising=False)
    assert main(["serve", *options]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("fastdllm: ")
    assert said in captured.err
    assert captured.err.count("\n") == 1


def test_a_missing_package_is_said_with_how_to_install_it(capsys, monkeypatch) -> None:
    for package in ("fastapi", "uvicorn", "prometheus_client"):
        with monkeypatch.context() as patch:
            patch.setitem(sys.modules, package, None)
            assert main(["serve"]) == 2
        said = capsys.readouterr().err
        assert re.match(rf"fastdllm: no module {package}, .*install.*\[chat\]", said)


def test_a_short_key_is_refused(capsys, tmp_path: Path) -> None:
    (tmp_path / "key").write_text("1234\n")
    assert main(["serve", "--key-file", str(tmp_path / "key")]) == 2
    assert "8 or more letters and digits" in capsys.readouterr().err
