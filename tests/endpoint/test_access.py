"""Who may ask: the key, the hosts, the port."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from fastdllm.common.errors import UserError
from fastdllm.endpoint.access import check_exposure, is_loopback, read_key
from fastdllm.endpoint.server import address_of, open_port, tunnel_hint
from tests.endpoint.running import Running, running

KEY = "right-0123456789"


def test_the_key_is_the_first_line_of_a_file_else_of_the_environment(tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_text(f"{KEY}\r\nsecond line\n")
    environment = {"FASTDLLM_KEY": "of-the-environment"}
    assert read_key(str(file), environment) == KEY
    assert read_key(None, environment) == "of-the-environment"
    assert read_key(None, {}) is None


@pytest.mark.parametrize(
    "text", ["", "\nsecond-line-key", "short", "two words here", "ключключключ"]
)
def test_what_is_no_key_is_refused(tmp_path: Path, text: str) -> None:
    file = tmp_path / "key"
    file.write_text(text)
    with pytest.raises(UserError, match=r"8 or more letters and digits.*openssl rand -hex 16"):
        read_key(str(file), {})
    if text and "\n" not in text:
        with pytest.raises(UserError, match="FASTDLLM_KEY: the key should have"):
            read_key(None, {"FASTDLLM_KEY": text})


def test_a_file_without_a_key_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"--key-file .*nowhere: No such file"):
        read_key(str(tmp_path / "nowhere"), {})
    (tmp_path / "bytes").write_bytes(b"\xff\xfe")
    with pytest.raises(UserError, match="not UTF-8 text"):
        read_key(str(tmp_path / "bytes"), {})


def test_beyond_this_machine_a_key_is_needed() -> None:
    for host in ("127.0.0.1", "127.1.2.3", "::1", "localhost"):
        assert is_loopback(host)
        check_exposure(host, None)
    for host in ("0.0.0.0", "::", "10.0.0.1", "node7"):
        check_exposure(host, KEY)
        with pytest.raises(UserError, match=rf"--host {host} lets other machines .* --key-file"):
            check_exposure(host, None)


def test_a_taken_port_is_named_with_one_that_is_free() -> None:
    with open_port("127.0.0.1", 0) as taken:
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(UserError, match=rf"port {port} is taken; --port (\d+) is free") as said:
            open_port("127.0.0.1", port)
        free = int(str(said.value).split()[-3])
        with open_port("127.0.0.1", free) as other:
            assert address_of(other) == f"http://127.0.0.1:{free}"


def test_the_address_is_one_that_people_can_open(monkeypatch) -> None:
    monkeypatch.setattr(socket, "gethostname", lambda: "node7")
    for host, shown in (("127.0.0.1", "127.0.0.1"), ("0.0.0.0", "node7")):
        with open_port(host, 0) as bound:
            assert address_of(bound) == f"http://{shown}:{bound.getsockname()[1]}"


@pytest.mark.parametrize("host", ["nowhere.invalid", "192.0.2.1", "two words"])
def test_a_host_that_is_not_here_is_named(host: str) -> None:
    with pytest.raises(UserError, match=rf"--host {host}: .*; 127.0.0.1 is this machine alone"):
        open_port(host, 0)


def test_the_line_for_a_tunnel_goes_through_the_host_of_the_job(monkeypatch) -> None:
    for name in ("SSH_CONNECTION", "SLURM_JOB_ID", "SLURM_SUBMIT_HOST"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("USER", "ada")
    monkeypatch.setattr(socket, "gethostname", lambda: "node7")
    assert tunnel_hint("127.0.0.1", 8000) is None
    monkeypatch.setenv("SSH_CONNECTION", "1 2 3 4")
    line = "from your own machine: ssh {}-N -L 8000:localhost:8000 ada@node7"
    assert tunnel_hint("127.0.0.1", 8000) == line.format("")
    monkeypatch.setenv("SLURM_JOB_ID", "5")
    monkeypatch.setenv("SLURM_SUBMIT_HOST", "login1")
    assert tunnel_hint("127.0.0.1", 8000) == line.format("-J ada@login1 ")
    assert tunnel_hint("0.0.0.0", 8000) is None


HOSTS = [
    ({"Host": "localhost:8000"}, 200),
    ({"Host": "127.0.0.1"}, 200),
    ({"Host": "[::1]:8000"}, 200),
    ({"Host": "LocalHost"}, 200),
    ({"Host": "evil.example"}, 403),
    ({"Host": "localhost.evil.example"}, 403),
    ({"Host": "evil.example#localhost"}, 403),
    ({"Host": "localhost@evil.example"}, 403),
    ({"Host": "[::1"}, 403),
    ({"Host": ""}, 403),
    ({"Host": "localhost", "Origin": "http://localhost:3000"}, 200),
    ({"Host": "localhost", "Origin": "https://evil.example"}, 403),
    ({"Host": "localhost", "Origin": "null"}, 403),
]


@pytest.mark.slow
@pytest.mark.parametrize(("headers", "status"), HOSTS)
def test_without_a_key_only_pages_of_this_machine_ask(
    server: Running, headers: dict[str, str], status: int
) -> None:
    for path in ("/v1/models", "/health", "/metrics", "/nowhere"):
        expected = 404 if (path, status) == ("/nowhere", 200) else status
        assert server.ask(path, headers=headers)[0] == expected


@pytest.mark.slow
def test_with_a_key_the_host_does_not_matter_and_only_health_is_open() -> None:
    with running(key=KEY) as server:
        right = {"Host": "node7.cluster", "Authorization": f"Bearer {KEY}"}
        assert server.ask("/v1/models", headers=right)[0] == 200
        for wrong in ({}, {"Authorization": KEY}, {"Authorization": f"Basic {KEY}"}):
            for path in ("/v1/models", "/v1/models/tiny", "/metrics"):
                status, answer = server.ask(path, headers=wrong)
                assert (status, answer["error"]["code"]) == (401, "invalid_api_key")
            assert server.ask("/v1/chat/completions", {}, headers=wrong)[0] == 401
            assert server.ask("/health", headers=wrong)[0] == 200
            assert server.ask("/ready", headers=wrong)[0] == 200


@pytest.mark.slow
def test_what_there_is_not_is_an_error_in_the_shape_of_the_api(server: Running) -> None:
    for path in ("/", "/v1", "/v1/embeddings", "/docs", "/openapi.json", "/v1/%ff%00/../x"):
        status, answer = server.ask(path)
        assert status == 404
        assert answer["error"]["message"].startswith("no such path: /")
    for path, method in (("/v1/models", "POST"), ("/v1/completions", "GET"), ("/health", "PUT")):
        status, answer = server.ask(path, method=method)
        assert status == 405
        assert answer["error"]["message"] == f"{path} does not take {method}"
    assert server.ask("/v1/models", method="HEAD")[0] == 200
