"""Visitors who ask too much, ask nonsense, or go away: refused in a line, and nobody else waits."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import pytest

from fastdllm import DecodingSettings, Request
from fastdllm.policy import default_policy
from fastdllm.serving.service import Overloaded
from fastdllm.serving.streams import Stream
from fastdllm.web.answering import Answering
from tests.endpoint.running import LIMIT_S, Gate, Running, held_up, wait_until
from tests.web.running_page import running_page
from tests.web.visitor import API, DATA, JOIN, Visitor, file_data

pytestmark = pytest.mark.slow

SLOTS = 2
QUESTION = "Lena has 10 cups. Leo has 42 cups. How many cups do they have together?"
MARKUP = "<img src=x onerror=alert(1)><script>alert(2)</script>"
SPACED = f"  def f(x):\n\treturn  x # {MARKUP}\n\n"


@pytest.fixture(scope="module")
def server() -> Iterator[Running]:
    with running_page(slots=SLOTS) as one:
        yield one


@pytest.fixture
def visitor(server: Running) -> Iterator[Visitor]:
    with closing(Visitor(f"http://localhost:{server.port}")) as one:
        yield one


@pytest.fixture
def other(server: Running) -> Iterator[Visitor]:
    with closing(Visitor(f"http://localhost:{server.port}")) as one:
        yield one


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"Question": "x" * 10**6}, "the question has 1000000 characters, and the page takes"),
        ({"Question": "word " * 10**4}, "tokens with the chat template"),
        ({"Question": " \n"}, "the question is empty"),
        ({"Question": None}, "the question is empty"),
        ({"Question": "\ud800"}, "the question holds half of a character"),
        ({"system_text": "x" * 10**6}, "the system text has 1000000 characters"),
        ({"system_text": "\udfff"}, "the system text holds half of a character"),
        ({"max_new_tokens": 10**9}, "the model has room for 0"),
        ({"max_new_tokens": 10**30}, f"max_new_tokens: {10**30} is more than a page can count"),
        ({"seed": 10**30}, "is more than a page can count"),
        ({"threshold": float("nan")}, "threshold: nan is not allowed"),
        ({"temperature": float("inf")}, "temperature: inf is not allowed"),
        ({"block_size": 10**9}, "the model has room for 0"),
        ({"stop_token": "-1"}, "stop_token"),
        ({"mask_id": "9" * 40}, "mask_id"),
        ({"layer_subset": MARKUP}, "layer_subset: &#x27;&lt;img src=x"),
    ],
)
def test_what_cannot_be_asked_is_refused_in_a_line(visitor, given, said) -> None:
    done = visitor.ask(
        **{"question": QUESTION} | {"question": given.pop("Question", QUESTION)}, **given
    )
    assert not done["success"]
    assert said in done["output"]["error"]
    assert "\n" not in done["output"]["error"]
    assert "<" not in done["output"]["error"]


@pytest.mark.parametrize(
    "given",
    [
        *({"preset": value} for value in ([], {}, 7, MARKUP)),
        *({"threshold": value} for value in ("x", [], {}, None)),
        *({"max_new_tokens": value} for value in ("x", [1], -1, 0.5)),
        *({"system_text": value} for value in ({}, [MARKUP])),
    ],
)
def test_forged_values_end_without_a_traceback(visitor, other, given) -> None:
    done = visitor.ask(QUESTION, **given)
    assert "Traceback" not in json.dumps(done)
    assert other.ask("Tom", max_new_tokens=8)["success"]


@pytest.mark.parametrize(
    ("body", "status", "said"),
    [
        (b"[" * 10**5 + b"]" * 10**5, 400, "the event is no JSON"),
        (b'{"fn_index":0,"session_hash":"x","data":[' + b"[]," * 10**6 + b"1]}", 413, "values"),
        (b'{"data":["' + b"x" * 5 * 2**20 + b'"]}', 413, "the body is longer than"),
        (b'{"data":[' + b"9" * 10**4 + b"]}", 400, "the event is no JSON"),
        (b"\xff\xfe", 400, "the event is no JSON"),
        (b"", 400, "the event is no JSON"),
        (b"null", 400, "no such event"),
        (b'{"data":[],"session_hash":"x"}', 400, "no such event"),
        (b'{"data":[],"session_hash":"x","fn_index":"0"}', 400, "no such event"),
        (b'{"data":[],"fn_index":0}', 400, "has no tab"),
        (b'{"data":[],"fn_index":0,"session_hash":"' + b"x" * 99 + b'"}', 400, "has no tab"),
        (b'{"data":7,"fn_index":0,"session_hash":"x"}', 422, "data"),
    ],
)
def test_a_body_that_is_no_event_is_refused(visitor, body, status, said) -> None:
    response = visitor.http.post(JOIN, content=body, headers={"Content-Type": "application/json"})
    assert (response.status_code, said in response.text) == (status, True)


def test_events_that_there_are_not_harm_nobody(visitor, other) -> None:
    kinds: list[dict[str, Any]] = [{"id": number} for number in (10**6, -1)]
    for event in kinds:
        assert "no such event" in visitor.join(event, []).text
    for name in ("retry", "edit", "undo"):
        event = visitor.event(name)
        for index in (10**6, -7, "x", None, [], {}):
            data = {"index": index, "value": MARKUP, "previous_value": ""}
            done = visitor.done(event, visitor.values(event), data)
            assert "Traceback" not in json.dumps(done)
    # What waits goes the way of what waits.
    ask = visitor.event("submit", "Question")
    assert visitor.at_once(ask, visitor.values(ask, Question=QUESTION)).status_code == 404
    assert other.ask("Tom", max_new_tokens=8)["success"]


def test_a_question_is_shown_as_it_was_asked(visitor) -> None:
    from fastdllm.web.chat_tab import APART

    done = visitor.ask(SPACED, max_new_tokens=8)
    (_, history, *_) = done["output"]["data"]
    ((kind, text),) = [(part["type"], part["text"]) for part in history[0]["content"]]
    assert (kind, text.replace(APART, "")) == ("text", SPACED)
    assert "<img" not in text


def test_uploads_have_limits(visitor) -> None:
    upload = f"{API}/upload"
    big = b"x" * (9 * 2**20)
    for files in ([big], [big, big]):
        sent = [("files", (f"{number}.json", one)) for number, one in enumerate(files)]
        assert visitor.http.post(upload, files=sent).status_code == 413
    endless = visitor.http.post(upload, content=iter([b"x"]))
    assert endless.status_code == 411


def test_the_oldest_files_make_room_for_new_ones(visitor, monkeypatch) -> None:
    first, second = (Path(visitor.upload(b"%d" % number)) for number in range(2))
    os.utime(first, (1, 1))
    held = sum(path.stat().st_size for path in first.parents[1].rglob("*") if path.is_file())
    monkeypatch.setattr("fastdllm.web.gate.MOST_STORED_BYTES", held - 1)
    assert Path(visitor.upload(b"2")).exists()
    assert (first.exists(), second.exists()) == (False, True)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "x.json: "),
        (b"{", "x.json: "),
        (b"[" * 10**5, "x.json: "),
        (b"{}", "x.json: no trace"),
        (b'{"format": "fastdllm trace", "schema_version": 1}', "x.json: "),
    ],
)
def test_a_file_that_is_no_trace_is_refused_by_its_name(visitor, content, said) -> None:
    done = visitor.done(visitor.event("upload"), [[file_data(visitor.upload(content, "x.json"))]])
    assert done["output"]["error"].startswith(said)
    assert "\n" not in done["output"]["error"]


def begun(visitor: Visitor) -> Any:
    """Ask for an answer of thousands of passes; return what the page is told, not read yet."""
    event = visitor.event("submit", "Question")
    given = {"max_new_tokens": 1900, "stop_token": "500", "threshold": 1}
    visitor.join(event, visitor.values(event, Question=QUESTION, **given)).raise_for_status()
    return visitor.http.stream("GET", DATA, params={"session_hash": visitor.tab})


def figures(server: Running) -> tuple[int, int]:
    now = server.service.figures()
    return now.decoding, now.waiting


def let_until(server: Running, gate: Gate, decoding: int, waiting: int) -> None:
    """Let passes go, until so many decode and wait."""

    def holds() -> bool:
        gate.passes.acquire(blocking=False)  # one at a time
        gate.passes.release()
        return figures(server) == (decoding, waiting)

    wait_until(holds)
    while gate.passes.acquire(blocking=False):
        pass


def test_a_closed_connection_frees_its_slot_or_its_place(server) -> None:
    address = f"http://localhost:{server.port}"
    cancelled = server.service.figures().answers.get("cancelled", 0)
    with ExitStack() as stack:
        visitors = [stack.enter_context(closing(Visitor(address))) for _ in range(SLOTS + 1)]
        with held_up(server) as gate:
            streams = []
            for number, one in enumerate(visitors, 1):
                streams.append(ExitStack())
                streams[-1].enter_context(begun(one))
                let_until(server, gate, 1 + min(number, SLOTS), max(number - SLOTS, 0))
            # Who waits leaves the queue, though no pass ends.
            streams[-1].close()
            wait_until(lambda: figures(server) == (1 + SLOTS, 0))
            # Who is answered frees a slot.
            for left, stream in enumerate(streams[:-1], 1):
                stream.close()
                let_until(server, gate, 1 + SLOTS - left, 0)
            assert server.service.figures().answers["cancelled"] == cancelled + SLOTS + 1
        # And may ask again.
        for one in visitors:
            assert one.ask("Tom", max_new_tokens=8)["success"]


def test_a_closed_tab_ends_what_nobody_reads(server, visitor) -> None:
    with held_up(server) as gate:
        with visitor.http.stream("GET", f"{API}/heartbeat/{visitor.tab}"):
            begun(visitor)
            let_until(server, gate, 2, 0)
        let_until(server, gate, 1, 0)


def completed(lines: Iterator[str]) -> str:
    return next(line for line in lines if "process_completed" in line)


def test_stop_ends_the_answer_of_its_own_tab_only(server, visitor, other) -> None:
    stop = visitor.event("click", "Stop")
    with held_up(server) as gate, begun(visitor) as stream:
        let_until(server, gate, 2, 0)
        for tab in (other.tab, "", "None", visitor.tab[:-1]):
            other.tab = tab
            assert other.at_once(stop, []).status_code == 200
        for _ in range(3):
            gate.passes.release()
        assert figures(server) == (2, 0)
        assert visitor.at_once(stop, []).status_code == 200
        let_until(server, gate, 1, 0)
        assert "[stopped]" in completed(stream.iter_lines())


def test_one_tab_has_one_answer_at_a_time(server, visitor) -> None:
    with held_up(server) as gate, begun(visitor) as stream:
        let_until(server, gate, 2, 0)
        begun(visitor)
        lines = stream.iter_lines()
        assert "an answer is being decoded; stop it first" in completed(lines)
        assert figures(server) == (2, 0)
        assert visitor.at_once(visitor.event("click", "Stop"), []).status_code == 200
        let_until(server, gate, 1, 0)
        assert '"success":true' in completed(lines)


def test_who_finds_no_place_is_told(server, visitor) -> None:
    with held_up(server):
        streams: list[Stream] = []
        with pytest.raises(Overloaded):
            while True:
                user = len(streams)
                streams.append(server.service.submit(Request((1, 2)), user=user))
        done = visitor.ask(QUESTION)
        for stream in streams:
            stream.cancel()
    assert "requests wait already" in done["output"]["error"]
    assert visitor.ask("Tom", max_new_tokens=8)["success"]


def test_a_stop_ends_what_the_turn_has_yet_to_ask(server) -> None:
    """As a visitor stops while a long question is being prepared, or between two answers."""
    answering = Answering(server.served)
    settings = DecodingSettings(max_new_tokens=1900, stop_token=500, threshold=1)
    policy = default_policy(settings, server.served.model.config.num_layers)
    with answering.turn_of("tab"):
        answering.stop("tab")
        stream = answering.submit("tab", Request((1, 2)), policy)
        assert stream.result(LIMIT_S).finish_reason == "cancelled"
    answering.stop("tab")
    with answering.turn_of("tab"):
        stream = answering.submit("tab", Request((1, 2), max_new_tokens=8), policy)
        assert stream.result(LIMIT_S).finish_reason == "length"


def test_hundred_who_never_read_hold_nobody_up(server, visitor, other) -> None:
    event = visitor.event("submit", "Question")
    values = visitor.values(event, Question="Tom", max_new_tokens=8)
    with ExitStack() as stack:
        for number in range(100):
            visitor.tab = f"slow{number}"
            if number % 10 == 0:
                visitor.join(event, values).raise_for_status()
            path = (
                f"heartbeat/{visitor.tab}"
                if number % 2
                else f"queue/data?session_hash=slow{number}"
            )
            there = socket.create_connection(("localhost", server.port), LIMIT_S)
            stack.callback(there.close)
            # And some have not even said what they want.
            head = f"GET {API}/{path} HTTP/1.1\r\nHost: localhost\r\n"
            there.sendall(f"{head}\r\n".encode() if number % 3 else head.encode())
        assert other.ask("Tom", max_new_tokens=8)["success"]
        server.wait_until_idle()
    assert other.ask("Tom", max_new_tokens=8)["success"]


def test_files_of_a_visitor_hold_what_is_shown(visitor) -> None:
    assert visitor.ask(QUESTION)["success"]
    event = visitor.event("click", "Steps, JSON")
    done = visitor.done(event, [None, {"step": 0, "colour": "step", "theme": "light"}])
    (made,) = done["output"]["data"]
    (file,) = made["value"] if isinstance(made, dict) else made
    assert visitor.http.get(f"{API}/file={file['path']}").json()["format"] == "fastdllm trace"
    assert Path(file["path"]).stat().st_mode & 0o077 == 0o044  # in a folder that is closed
