"""HTTP servers on loopback in threads of the tests' own process, which write nothing where commands write."""

from __future__ import annotations

import socket
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class QuietServer(ThreadingHTTPServer):
    """A server that says nothing of clients that go away, as browsers do, and keeps any other error.

    Python's own prints them from its threads, amid what a command prints that a test compares.

    Attributes:
        errors: what went wrong in handlers, through no fault of a client.
    """

    # As many may connect at once as a busy machine leaves waiting.
    request_queue_size = 128
    # Waited for at the end, so that nothing happens after it.
    daemon_threads = False

    def __init__(self, handler: Callable[..., BaseHTTPRequestHandler]) -> None:
        self.errors: list[BaseException] = []
        self._connections: set[socket.socket] = set()
        super().__init__(("127.0.0.1", 0), handler)  # type: ignore[arg-type]

    def process_request(self, request: Any, client_address: Any) -> None:
        self._connections.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self._connections.discard(request)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        error = sys.exception()
        if error is not None and not isinstance(error, ConnectionError):
            self.errors.append(error)

    def server_close(self) -> None:
        for connection in list(self._connections):
            # A client may keep one for a request that never comes.
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        super().server_close()


@contextmanager
def listening(handler: Callable[..., BaseHTTPRequestHandler]) -> Iterator[QuietServer]:
    """Answers with a handler in threads; an error of the handler is raised here in the end."""
    with QuietServer(handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
    if server.errors:
        raise server.errors[0]
