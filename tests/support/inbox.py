"""A server on loopback that takes messages as a notification service does, and keeps them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from typing import Any

from tests.support.loopback import listening

CANARY = "canary-5dbe1f7a"


class Inbox:
    """The messages that came.

    Attributes:
        messages: what was posted, in order.
        address: an address of apprise, with a credential in it.
    """

    def __init__(self, port: int) -> None:
        self.messages: list[dict[str, Any]] = []
        self.address = f"json://user:{CANARY}@127.0.0.1:{port}/{CANARY}"

    @property
    def titles(self) -> list[str]:
        return [message["title"] for message in self.messages]


@contextmanager
def inbox(status: int = 200) -> Iterator[Inbox]:
    """Yields a server.

    Args:
        status: what it answers.
    """

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            taken.messages.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(status)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            pass

    with listening(Handler) as server:
        taken = Inbox(server.server_port)
        yield taken
