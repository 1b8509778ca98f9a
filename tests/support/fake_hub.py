"""A Hugging Face hub on this machine: folders as repositories, with faults on demand.

Speaks what huggingface_hub and datasets ask for: information, tree, files with ranges.
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class Hub:
    """Repositories: models in models/owner/name, data sets in datasets/owner/name.

    served_bytes: content sent, by file name. ranges: the Range headers that were seen.
    gated: names of repositories whose files nobody gets.
    cut: files whose connection is closed after half of what was asked, that many times.
    swapped: files whose content is another one of the same size, that many times.
    """

    folder: Path
    url: str = ""
    commit: str = COMMIT
    served_bytes: dict[str, int] = field(default_factory=dict)
    ranges: list[str] = field(default_factory=list)
    gated: set[str] = field(default_factory=set)
    cut: dict[str, int] = field(default_factory=dict)
    swapped: dict[str, int] = field(default_factory=dict)
    lock: Any = field(default_factory=threading.Lock)

    def tree(self, repository: Path) -> list[dict[str, Any]]:
        return [self.entry(repository, path) for path in sorted(repository.rglob("*"))]

    def entry(self, repository: Path, path: Path) -> dict[str, Any]:
        if path.is_dir():
            name = path.relative_to(repository).as_posix()
            return {"type": "directory", "path": name, "oid": "0" * 40, "size": 0}
        content = path.read_bytes()
        blob = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
        entry: dict[str, Any] = {
            "type": "file",
            "path": path.relative_to(repository).as_posix(),
            "size": len(content),
            "oid": blob,
        }
        if path.suffix in (".safetensors", ".parquet"):
            sha256 = hashlib.sha256(content).hexdigest()
            entry["lfs"] = {"oid": sha256, "size": len(content), "pointerSize": 130}
        return entry

    def takes(self, faults: dict[str, int], name: str) -> bool:
        """Whether this request gets the fault; each is used up."""
        with self.lock:
            if faults.get(name, 0) < 1:
                return False
            faults[name] -= 1
            return True


@contextmanager
def serve(folder: Path) -> Iterator[Hub]:
    """The hub of a folder, at `url`, until the end of the block."""
    hub = Hub(folder)
    handler = type("Handler", (_Handler,), {"hub": hub})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def do_POST(self) -> None:
        path = urlsplit(self.path).path
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        found = re.fullmatch(r"/api/(models|datasets)/([^/]+/[^/]+)/paths-info/[^/]+", path)
        if not found:
            return self._not_found("EntryNotFound")
        repository = self.hub.folder / found[1] / found[2]
        asked = json.loads(body)["paths"] if body.startswith(b"{") else []
        asked = asked or re.findall(r"paths=([^&]+)", body.decode())
        files = [repository / unquote(name) for name in asked]
        return self._json([self.hub.entry(repository, f) for f in files if f.exists()])

    def _answer(self, *, with_body: bool) -> None:
        path = unquote(urlsplit(self.path).path)
        if found := re.fullmatch(r"/api/(models|datasets)/([^/]+/[^/]+)(/.*)?", path):
            return self._api(found[1], found[2], found[3] or "")
        pattern = r"/(datasets/)?([^/]+/[^/]+)/resolve/([^/]+)/(.+)"
        if found := re.fullmatch(pattern, path):
            repository = self.hub.folder / (found[1] or "models/") / found[2]
            return self._file(repository, found[3], found[4], with_body=with_body)
        return self._not_found("EntryNotFound")

    def _api(self, kind: str, name: str, rest: str) -> None:
        repository = self.hub.folder / kind / name
        if not repository.is_dir():
            return self._not_found("RepoNotFound")
        found = re.fullmatch(r"/(revision|tree)/([^/]+)(/.*)?", rest)
        if found and found[2] not in ("main", self.hub.commit):
            return self._not_found("RevisionNotFound")
        tree = self.hub.tree(repository)
        if found and found[1] == "tree":
            below = (found[3] or "").strip("/")
            return self._json([e for e in tree if e["path"].startswith(below)])
        siblings = [{"rfilename": entry["path"]} for entry in tree if entry["type"] == "file"]
        return self._json(
            {"id": name, "sha": self.hub.commit, "siblings": siblings, "private": False}
        )

    def _file(self, repository: Path, revision: str, name: str, *, with_body: bool) -> None:
        if revision not in ("main", self.hub.commit):
            return self._not_found("RevisionNotFound")
        path = repository / name
        if f"{repository.parent.name}/{repository.name}" in self.hub.gated:
            return self._not_found("GatedRepo", status=403)
        if not path.is_file():
            return self._not_found("EntryNotFound")
        content = path.read_bytes()
        entry = self.hub.entry(repository, path)
        if with_body and self.hub.takes(self.hub.swapped, name):
            content = content[:-9] + bytes(9)
        start, whole = 0, len(content)
        if asked := self.headers.get("Range"):
            self.hub.ranges.append(asked)
            start = int(re.findall(r"\d+", asked)[0])
        content = content[start:]
        self.send_response(206 if asked else 200)
        self.send_header("ETag", f'"{entry["lfs"]["oid"] if "lfs" in entry else entry["oid"]}"')
        self.send_header("X-Repo-Commit", self.hub.commit)
        self.send_header("Accept-Ranges", "bytes")
        if asked:
            self.send_header("Content-Range", f"bytes {start}-{whole - 1}/{whole}")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if with_body and self.hub.takes(self.hub.cut, name):
            content = content[: len(content) // 2]
            self.close_connection = True
        if with_body:
            self.hub.served_bytes[name] = self.hub.served_bytes.get(name, 0) + len(content)
            self.wfile.write(content)
        return None

    def _json(self, value: Any) -> None:
        body = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _not_found(self, code: str, *, status: int = 404) -> None:
        self.send_response(status)
        self.send_header("X-Error-Code", code)
        self.send_header("Content-Length", "0")
        self.end_headers()
