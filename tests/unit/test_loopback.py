"""The tests' own servers stand beside commands whose output is compared, so they may not write to it."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
import urllib.request
from http.server import BaseHTTPRequestHandler

import pytest

from tests.support.loopback import listening


def test_a_client_that_goes_away_is_nothing_to_speak_of(capfd: pytest.CaptureFixture[str]) -> None:
    asked, gone, left = threading.Event(), threading.Event(), []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.set()
            gone.wait()
            try:
                self.wfile.write(bytes(10**8))
            except ConnectionError as error:
                left.append(error)
                raise

    with listening(Handler) as server:
        place = ("127.0.0.1", server.server_port)
        # One that is kept open keeps nobody waiting in the end.
        idle = socket.create_connection(place)
        with socket.create_connection(place) as client:
            client.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
            asked.wait()
            # Reset when it is closed, as of a page that is closed.
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        gone.set()
    idle.close()
    assert len(left) == 1
    assert capfd.readouterr() == ("", "")


def test_a_handler_that_fails_fails_the_test(capfd: pytest.CaptureFixture[str]) -> None:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            raise KeyError("Content-Length")

    with pytest.raises(KeyError, match="Content-Length"), listening(Handler) as server:  # noqa: SIM117
        with contextlib.suppress(OSError):
            urllib.request.urlopen(f"http://127.0.0.1:{server.server_port}/", timeout=60)
    assert capfd.readouterr() == ("", "")
