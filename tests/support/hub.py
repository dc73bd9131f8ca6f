"""A hub of models on loopback, as far as its client asks: it counts requests, gates models and limits rates."""

from __future__ import annotations

import hashlib
import json
import threading
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest
from huggingface_hub import constants

from loco_core.diffusion import hub as client
from tests.support.loopback import listening

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class Hub:
    """A hub that is running.

    Attributes:
        address: where its client finds it, as ``HF_ENDPOINT``.
        models: folders by hub id.
        token: token that it knows, of an account that may read everything; empty takes everybody.
        strangers: tokens that it knows, of accounts that have accepted no licence.
        busy: how many requests it refuses from now on as too many; HEAD of its top is answered.
        pause: what it answers as ``Retry-After`` then.
        silent: beginning of the paths to which it gives no answer; empty for none.
        requests: method and path of all requests so far.
    """

    address: str
    models: Mapping[str, Path]
    token: str = field(default="", repr=False)
    strangers: tuple[str, ...] = ()
    busy: int = 0
    pause: str = "0"
    silent: str = ""
    requests: list[str] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock, repr=False)
    closing: threading.Event = field(default_factory=threading.Event, repr=False)

    def downloads(self) -> Counter[str]:
        """Returns how often each file was sent."""
        return Counter(line.partition(f"/{COMMIT}/")[2] for line in self.requests if line.startswith("GET /owner"))

    def environment(self, home: Path) -> dict[str, str]:
        """Returns the environment in which commands find it, and keep what they fetch in a folder."""
        return {"HF_ENDPOINT": self.address, "HF_HOME": str(home), "HF_HUB_DISABLE_XET": "1", "HF_HUB_OFFLINE": "0"}


@contextmanager
def serving(models: Mapping[str, Path], **settings: Any) -> Iterator[Hub]:
    """Runs a hub with models of folders."""
    with listening(_Handler) as server:
        hub = Hub(f"http://127.0.0.1:{server.server_port}", models, **settings)
        server.hub = hub  # type: ignore[attr-defined]
        try:
            yield hub
        finally:
            hub.closing.set()


def redirect(monkeypatch: pytest.MonkeyPatch, hub: Hub, cache: Path) -> None:
    """Makes the hub's client of this process, which read its environment long ago, ask a hub on loopback."""
    monkeypatch.setattr(constants, "ENDPOINT", hub.address)
    template = f"{hub.address}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(client, "_asked", {})
    monkeypatch.setattr("huggingface_hub.hf_api.api.endpoint", hub.address)
    monkeypatch.delenv("HF_TOKEN", raising=False)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    @property
    def hub(self) -> Hub:
        return self.server.hub  # type: ignore[attr-defined, no-any-return]

    def log_message(self, *_: Any) -> None:
        """Says nothing."""

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def _answer(self) -> None:
        path = unquote(urlsplit(self.path).path)
        with self.hub.lock:
            self.hub.requests.append(f"{self.command} {path}")
            busy = self.hub.busy > 0 and path != "/"
            self.hub.busy -= busy
        if self.hub.silent and path.startswith(self.hub.silent):
            self.hub.closing.wait()
            self.close_connection = True
            return
        if busy:
            self._send(429, b"", {"Retry-After": self.hub.pause})
            return
        if path == "/":
            self._send(200, b"")
            return
        words = path.removeprefix("/api/models").strip("/").split("/")
        repository, rest = "/".join(words[:2]), words[2:]
        if not self._admitted(repository):
            return
        if path.startswith("/api/models"):
            self._describe(repository, rest)
        else:
            self._send_file(repository, rest[1], "/".join(rest[2:]))

    def _admitted(self, repository: str) -> bool:
        hub, shown = self.hub, self.headers.get("Authorization", "").removeprefix("Bearer ")
        if shown not in ("", hub.token, *hub.strangers):
            self._send(401, b"", {"X-Error-Message": "Invalid credentials in Authorization header"})
        elif repository not in hub.models:
            self._send(404 if shown else 401, b"", {"X-Error-Code": "RepoNotFound"})
        elif hub.token and shown != hub.token:
            self._send(403 if shown else 401, b"", {"X-Error-Code": "GatedRepo"})
        else:
            return True
        return False

    def _describe(self, repository: str, rest: list[str]) -> None:
        if rest[:1] == ["tree"]:
            files = self.hub.models[repository]
            found = [
                {"type": "file", "path": str(path.relative_to(files)), "size": path.stat().st_size, "oid": _etag(path)}
                for path in sorted(files.rglob("*")) if path.is_file()
            ]  # fmt: skip
            self._send(200, json.dumps(found).encode(), {"Content-Type": "application/json"})
        else:
            self._send(200, json.dumps({"id": repository, "sha": COMMIT, "siblings": []}).encode())

    def _send_file(self, repository: str, revision: str, name: str) -> None:
        path = self.hub.models[repository] / name
        if revision not in ("main", COMMIT):
            self._send(404, b"", {"X-Error-Code": "RevisionNotFound"})
        elif not path.is_file():
            self._send(404, b"", {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": COMMIT})
        else:
            self._send(200, path.read_bytes(), {"X-Repo-Commit": COMMIT, "ETag": f'"{_etag(path)}"'})

    def _send(self, status: int, body: bytes, headers: Mapping[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)


def _etag(path: Path) -> str:
    return hashlib.sha1(path.read_bytes()).hexdigest()
