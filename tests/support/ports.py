"""Ports for servers that must be told one before they start."""

from __future__ import annotations

import random
import socket
from contextlib import ExitStack
from pathlib import Path

# Below lie those that Ray gives its workers, 10002 to 19999.
_FIRST = 20_000
_RANGE = Path("/proc/sys/net/ipv4/ip_local_port_range")


def free_ports(count: int) -> list[int]:
    """Returns ports of loopback, one after the other, that nothing listens on.

    They are none of those that the system gives to whoever asks for any, or connects to something: a server that takes
    a while to start would find its port taken.
    """
    end = int(_RANGE.read_text().split()[0]) if _RANGE.exists() else 32_768
    for _ in range(1000):
        first = random.SystemRandom().randrange(_FIRST, max(end, _FIRST + 2 * count) - count)
        ports = list(range(first, first + count))
        if _all_free(ports):
            return ports
    raise AssertionError(f"no {count} free ports from {_FIRST} on")


def _all_free(ports: list[int]) -> bool:
    with ExitStack() as held:
        try:
            for port in ports:
                held.enter_context(socket.create_server(("127.0.0.1", port)))
        except OSError:
            return False
    return True
