"""`fastdllm web` as a process: asks nothing of a network, keeps to itself, and ends cleanly."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import httpx
import pytest

from fastdllm.cli import main
from tests.endpoint.running import LIMIT_S
from tests.support.small_project import ROOT
from tests.web.visitor import API, JOIN, Visitor

pytestmark = pytest.mark.slow

KEY = "right-0123456789"
# Runs the command, and prints what it did that is seen from outside.
WATCHED = """
import json, sys

seen = []

def hear(event, args):
    if event in ("socket.connect", "socket.bind", "socket.sendto"):
        seen.append([event, str(args[1])])
    elif event in ("socket.getaddrinfo", "socket.gethostbyname", "subprocess.Popen", "os.mkdir"):
        seen.append([event, str(args[0])])
    elif event == "open" and isinstance(args[1], str) and set(args[1]) & set("wax+"):
        seen.append([event, str(args[0])])

sys.addaudithook(hear)
from fastdllm.cli import main

code = main(["web", "--port", "0", "--dtype", "float32"])
sys.stdout.write(json.dumps({"code": code, "seen": seen}))
"""
# What Gradio would obey.
HOSTILE = {
    "GRADIO_ALLOWED_PATHS": "/",
    "GRADIO_ANALYTICS_ENABLED": "True",
    "GRADIO_DEBUG": "1",
    "GRADIO_LOCAL_DEV_MODE": "1",
    "GRADIO_MCP_SERVER": "True",
    "GRADIO_PROFILING": "1",
    "GRADIO_ROOT_PATH": "https://evil.example/root",
    "GRADIO_RUN_HISTORY": "True",
    "GRADIO_SERVER_NAME": "0.0.0.0",
    "GRADIO_SHARE": "True",
    "GRADIO_SSR_MODE": "True",
    "GRADIO_VIBE_MODE": "1",
}


@dataclass
class Watched:
    """The process, where it answers, and what it did, once it has ended."""

    process: subprocess.Popen[str]
    address: str
    temporary: Path
    code: int = -1
    seen: tuple[tuple[str, str], ...] = ()

    def what(self, *events: str) -> list[str]:
        return [what for event, what in self.seen if event in events]


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    """The command with a key, and variables that would open it to the world."""
    place = tmp_path_factory.mktemp("watched")
    home, temporary = place / "home", place / "temporary"
    home.mkdir()
    temporary.mkdir()
    variables = {
        **HOSTILE,
        "FASTDLLM_KEY": KEY,
        "GRADIO_TEMP_DIR": str(place / "hostile"),
        "HOME": str(home),
        "PYTHONDONTWRITEBYTECODE": "1",
        "TMPDIR": str(temporary),
    }
    started = subprocess.Popen(
        [sys.executable, "-c", WATCHED],
        cwd=ROOT,
        env=os.environ | variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with started:
        try:
            assert started.stdout is not None
            assert started.stderr is not None
            line = started.stdout.readline()
            found = re.fullmatch(r"tiny on cpu: (http://127.0.0.1:\d+) \(Ctrl-C ends\)\n", line)
            assert found, (line, started.stderr.read())
            yield Watched(started, found[1], temporary)
        finally:
            started.kill()


def test_the_password_is_the_key(watched: Watched) -> None:
    for path in ("/config", f"{API}/queue/data?session_hash=x", f"{API}/file={watched.temporary}"):
        assert httpx.get(watched.address + path).status_code in (401, 403)
    # Gradio itself lets anybody end an event, and begin a tab, which takes the place of another.
    for path in ("heartbeat/x", "app_id", "upload_progress?upload_id=x"):
        assert httpx.get(f"{watched.address}{API}/{path}").status_code == 401
    event = {"data": [], "fn_index": 0, "session_hash": "x", "event_id": "x"}
    assert httpx.post(f"{watched.address}{API}/cancel", json=event).status_code == 401
    assert httpx.post(watched.address + JOIN, json=event).status_code == 401
    assert httpx.get(f"{watched.address}/v1/models").status_code == 401
    # What it shows before is of this server alone.
    page = httpx.get(watched.address).text
    assert '"auth_required":true' in page
    assert "evil.example" not in page
    for name in ("theme.css", *re.findall(r'(?:src|href)="\.?/?((?:assets|static)/[^"]+)"', page)):
        assert httpx.get(f"{watched.address}/{name}").status_code == 200
    for wrong in ("", "wrong", KEY[:-1], f"{KEY} ", "ключ", "x" * 10**5):
        response = logged_in(watched, wrong)
        assert response.status_code in (400, 422)
        assert "set-cookie" not in response.headers


def logged_in(watched: Watched, password: str) -> httpx.Response:
    form = {"username": "anybody", "password": password}
    return httpx.post(f"{watched.address}/login", data=form, timeout=LIMIT_S)


def test_who_has_it_uses_the_page_and_no_other_site_does(watched: Watched) -> None:
    response = logged_in(watched, KEY)
    cookies = response.headers.get_list("set-cookie")
    assert cookies
    for cookie in cookies:
        assert {"HttpOnly", "SameSite=Lax"} <= set(cookie.split("; "))
        assert "samesite=none" not in cookie.lower()
    visitor = Visitor(watched.address, dict(response.cookies))
    assert visitor.page["root"] == watched.address
    assert visitor.ask("Tom has 3 boxes.", max_new_tokens=8)["success"]
    path = visitor.upload(b"{}")
    assert visitor.http.get(f"{API}/file={path}").content == b"{}"
    visitor.close()
    assert httpx.get(f"{watched.address}{API}/file={path}").status_code == 401


def test_a_signal_ends_it_and_nothing_is_left(watched: Watched) -> None:
    """Also under those who are answered, and those who only look."""
    (folder,) = watched.temporary.iterdir()
    assert folder.stat().st_mode & 0o777 == 0o700
    visitor = Visitor(watched.address, dict(logged_in(watched, KEY).cookies))
    event = visitor.event("submit", "Question")
    values = visitor.values(event, Question="Tom", max_new_tokens=1900, stop_token="500")
    visitor.join(event, values).raise_for_status()
    messages = visitor.messages()
    assert any(message["msg"] == "process_generating" for message in messages)
    with visitor.http.stream("GET", f"{API}/heartbeat/{visitor.tab}"):
        watched.process.send_signal(signal.SIGTERM)
        out, errors = watched.process.communicate(timeout=LIMIT_S)
    assert (watched.process.returncode, errors) == (0, "")
    found: dict[str, Any] = json.loads(out)
    watched.code, watched.seen = found["code"], tuple(map(tuple, found["seen"]))
    assert watched.code == 0
    assert not list(watched.temporary.iterdir())


def test_it_asked_no_other_machine_and_wrote_nowhere_else(watched: Watched) -> None:
    assert watched.seen
    assert {what.partition(",")[0] for what in watched.what("socket.bind")} == {"('127.0.0.1'"}
    assert watched.what("socket.connect", "socket.sendto", "socket.gethostbyname") == []
    assert set(watched.what("socket.getaddrinfo")) <= {"127.0.0.1"}
    assert set(watched.what("subprocess.Popen")) <= {"git"}  # for the version of the code
    written = {what for what in watched.what("open", "os.mkdir") if not what.startswith("/dev/")}
    assert written
    assert {what for what in written if not what.startswith(str(watched.temporary))} == set()


@pytest.fixture
def own_environment() -> Iterator[None]:
    """The command sets variables, which end with its process."""
    with patch.dict(os.environ):
        os.environ.pop("FASTDLLM_KEY", None)
        yield


@pytest.mark.usefixtures("own_environment")
@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--host", "0.0.0.0"], "--host 0.0.0.0 lets other machines ask, which needs a key"),
        (["--port", "99999"], "'99999' is not allowed; it should be from 0 to 65535"),
        (["--share"], "--share"),
    ],
)
def test_a_mistake_is_one_line(capsys, options: list[str], said: str) -> None:
    assert main(["web", *options]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("fastdllm: ")
    assert said in captured.err
    assert captured.err.count("\n") == 1


@pytest.mark.usefixtures("own_environment")
def test_a_taken_port_is_one_line_with_a_free_one(capsys) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert main(["web", "--port", str(port)]) == 2
    assert re.fullmatch(
        rf"fastdllm: port {port} is taken; --port \d+ is free\n", capsys.readouterr().err
    )


@pytest.mark.usefixtures("own_environment")
def test_a_missing_package_is_said_with_how_to_install_it(capsys, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "gradio", None)
    assert main(["web"]) == 2
    said = capsys.readouterr().err
    assert re.match(r"fastdllm: no module gradio, .*install.*\[chat\]", said)
