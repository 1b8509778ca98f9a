"""Nothing but the page is reached: no file of the machine, no other address, no other event."""

from __future__ import annotations

import re
from collections.abc import Iterator
from http.client import HTTPConnection
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import pytest

from fastdllm.web.gate import PageGate
from tests.endpoint.running import LIMIT_S, Running
from tests.web.running_page import running_page
from tests.web.visitor import API, JOIN, Visitor, file_data

pytestmark = pytest.mark.slow

# Which the page would take for a trace, and which it would not.
FOREIGN = [str(Path("models/tiny/config.json").resolve()), "/etc/passwd", "README.md"]


@pytest.fixture(scope="module")
def server() -> Iterator[Running]:
    with running_page() as one:
        yield one


@pytest.fixture(scope="module")
def address(server: Running) -> str:
    return f"http://localhost:{server.port}"


@pytest.fixture
def visitor(address: str) -> Iterator[Visitor]:
    one = Visitor(address)
    yield one
    one.close()


@pytest.mark.parametrize(
    "path",
    [
        *(f"{API}/{path}" for path in ("info", "openapi.json", "token", "user", "queue/status")),
        *(f"{API}/{path}" for path in ("dev/reload", "vibe-code", "runs", "deep_link", "mcp")),
        *("/openapi.json", "/docs", "/monitoring", "/monitoring/summary", "/logout"),
        *(f"{API}/proxy=http://localhost/", f"{API}/component_server", f"{API}/api/predict"),
    ],
)
def test_what_the_page_does_not_need_is_not_there(address, path) -> None:
    for method in ("GET", "POST"):
        response = httpx.request(method, address + path)
        assert response.status_code == 404
        assert "no such path" in response.json()["error"]["message"]


def status_of(server: Running, path: str) -> int:
    """Ask for a path as it is: other clients take dots out of it."""
    connection = HTTPConnection("localhost", server.port, timeout=LIMIT_S)
    connection.request("GET", path)
    try:
        return connection.getresponse().status
    finally:
        connection.close()


@pytest.mark.parametrize("path", [*FOREIGN, "/proc/self/environ", "http://localhost/x", ""])
def test_no_file_is_given_but_those_of_visitors(server, visitor, path) -> None:
    folder = Path(visitor.upload(b"{}")).parent
    up = "/".join([".."] * len(folder.parts))
    names = [path, f"{folder}/{up}/{path}", f"{folder}/..", f"../{path}", f"//{path}"]
    names += [f"{folder}/%00", f"/{'x' * 5000}"]
    for name in (*names, *(quote(name, safe="") for name in names)):
        assert status_of(server, f"{API}/file={name}") == 403
    for place in ("/static/", "/assets/"):
        assert status_of(server, f"{place}{up}/{path}") in (403, 404)
        assert status_of(server, quote(f"{place}{up}/{path}")) in (403, 404)


def test_a_link_to_a_file_of_the_machine_is_not_followed(address, visitor) -> None:
    link = Path(visitor.upload(b"{}")).with_name("link.json")
    link.symlink_to(FOREIGN[0])
    assert httpx.get(f"{address}{API}/file={link}").status_code == 403
    response = visitor.join(visitor.event("upload"), [[file_data(str(link))]])
    assert response.status_code == 403


@pytest.mark.parametrize("path", [*FOREIGN, "http://localhost:9/x.json", "https://example.com/x"])
def test_an_event_names_no_file_but_uploads(visitor, path) -> None:
    own = visitor.upload(b"{}")
    forged: list[Any] = [
        file_data(path),
        file_data(own, url=path),
        file_data(f"{Path(own).parent}/../../../..{path}"),
        {"a": [[file_data(path)]]},
    ]
    for one in forged:
        for event in (visitor.event("upload"), visitor.event("click", "Page, HTML")):
            values = [[one]] if event == visitor.event("upload") else [None, one]
            response = visitor.join(event, values)
            assert response.status_code == 403
            assert "names a file that was not uploaded" in response.text


def test_gradio_refuses_it_too(visitor, monkeypatch) -> None:
    """Which it does not for a page that was only mounted, unless told that it was launched."""
    monkeypatch.setattr(PageGate, "_check_event", lambda *_: None)
    folder = Path(visitor.upload(b"{}")).parents[1]
    done = visitor.done(visitor.event("upload"), [[file_data(FOREIGN[0])]])
    assert (done["success"], done["output"]) == (False, {"error": None})
    assert not list(folder.glob("*/config.json"))


def test_an_upload_is_given_back_to_who_knows_its_path_only(address, visitor) -> None:
    path = visitor.upload(b"[1]")
    assert re.search(r"/[0-9a-f]{64}/trace\.json$", path)
    assert httpx.get(f"{address}{API}/file={path}").content == b"[1]"
    assert (Path(path).parents[1].stat().st_mode & 0o077) == 0


@pytest.mark.parametrize(
    "origin", ["http://evil.example", "http://localhost:1", "null", "http://["]
)
def test_a_page_of_another_site_asks_nothing(address, origin) -> None:
    for path in ("/", "/config", f"{API}/queue/data"):
        assert httpx.get(address + path, headers={"Origin": origin}).status_code == 403
    assert httpx.post(address + JOIN, headers={"Origin": origin}, json={}).status_code == 403


def test_the_browser_is_told_to_ask_nobody_else(address) -> None:
    policy = httpx.get(address).headers["content-security-policy"]
    rules = dict(rule.strip().partition(" ")[::2] for rule in policy.split(";"))
    here = {"'self'", "'unsafe-inline'", "'unsafe-eval'", "data:", "blob:"}
    assert set(rules["default-src"].split()) == here
    assert rules["frame-ancestors"] == rules["base-uri"] == rules["form-action"] == "'self'"
