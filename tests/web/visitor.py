"""A visitor without a browser: the requests that the page sends, and others that it never would."""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator
from typing import Any

import httpx

from tests.endpoint.running import LIMIT_S

API = "/gradio_api"
JOIN = f"{API}/queue/join"
DATA = f"{API}/queue/data"


def file_data(path: str, **more: Any) -> dict[str, Any]:
    """A file, as events name one."""
    return {"path": path, "meta": {"_type": "gradio.FileData"}, **more}


class Visitor:
    """A tab of a browser; cookies: of one that has logged in."""

    def __init__(self, address: str, cookies: Any = None) -> None:
        self.http = httpx.Client(
            base_url=address, timeout=LIMIT_S, cookies=cookies, trust_env=False
        )
        self.tab = secrets.token_hex(6)
        self._latest: str | None = None  # event
        self.page = self.http.get("/config").raise_for_status().json()
        self._components = {one["id"]: one for one in self.page["components"]}

    def event(self, name: str, label: str | None = None) -> dict[str, Any]:
        """The first event of a name, of the component with a label or text."""
        for event in self.page["dependencies"]:
            for component, its_name in event["targets"]:
                props = self._components[component]["props"] if component is not None else {}
                if its_name == name and label in (None, props.get("label"), props.get("value")):
                    return dict(event)
        raise AssertionError(f"no event {name} of {label}")

    def values(self, event: dict[str, Any], **given: Any) -> list[Any]:
        """What the page sends: its components as they are at first, but for those given."""
        kinds = [self._components[component] for component in event["inputs"]]
        return [
            None if kind["type"] == "state" else given.get(label, props.get("value"))
            for kind in kinds
            for props in [kind["props"]]
            for label in [str(props.get("label")).replace(" ", "_")]
        ]

    def join(
        self, event: dict[str, Any], values: list[Any], event_data: Any = None
    ) -> httpx.Response:
        """Cause an event."""
        body = {
            "data": values,
            "fn_index": event["id"],
            "session_hash": self.tab,
            "event_data": event_data,
        }
        # By hand, as what is no JSON, or half of a character, would not be sent.
        content, headers = json.dumps(body), {"Content-Type": "application/json"}
        response = self.http.post(JOIN, content=content, headers=headers)
        self._latest = response.json()["event_id"] if response.is_success else None
        return response

    def messages(self) -> Iterator[dict[str, Any]]:
        """What the page is told of its events, up to the end of the latest one."""
        with self.http.stream("GET", DATA, params={"session_hash": self.tab}) as response:
            for line in response.iter_lines():
                if line.startswith("data:"):
                    message = json.loads(line.removeprefix("data:"))
                    yield message
                    is_last = message["msg"] == "process_completed"
                    if is_last and message["event_id"] == self._latest:
                        return

    def done(
        self, event: dict[str, Any], values: list[Any], event_data: Any = None
    ) -> dict[str, Any]:
        """Cause an event, and return what comes of it in the end."""
        self.join(event, values, event_data).raise_for_status()
        return list(self.messages())[-1]

    def at_once(self, event: dict[str, Any], values: list[Any]) -> httpx.Response:
        """Cause an event that waits for no other."""
        body = {"data": values, "fn_index": event["id"], "session_hash": self.tab}
        return self.http.post(f"{API}/run/predict", json=body)

    def ask(self, question: str, **given: Any) -> dict[str, Any]:
        """Send a question from the chat."""
        event = self.event("submit", "Question")
        return self.done(event, self.values(event, Question=question, **given))

    def upload(self, content: bytes, name: str = "trace.json") -> str:
        """Upload a file, and return its path on the server."""
        response = self.http.post(f"{API}/upload", files={"files": (name, content)})
        (path,) = response.raise_for_status().json()
        return str(path)

    def close(self) -> None:
        self.http.close()
