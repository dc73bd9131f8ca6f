"""Hosts with addresses of their own on this machine: network namespaces on a bridge, whose cables can be pulled."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

BRIDGE, NETWORK = "loco-sweep", "10.177.0"
SWITCH = f"{NETWORK}.1"
"""Address of this machine as the hosts see it."""


def why_not() -> str | None:
    """Returns why this machine cannot have such hosts; None where it can."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    return None if shutil.which("ip") else "network namespaces need `ip`; Debian: apt-get install iproute2"


@dataclass(frozen=True)
class Host:
    """A network namespace with one cable to the bridge.

    Attributes:
        name: of the namespace.
        address: on the bridge.
    """

    name: str
    address: str

    @property
    def prefix(self) -> tuple[str, ...]:
        """What stands before a command that is to run there."""
        return ("ip", "netns", "exec", self.name)

    def unplug(self) -> None:
        """Drops whatever it sends or is sent, without a word to either end."""
        _ip("link", "set", f"{self.name}-0", "down")

    def plug(self) -> None:
        """Undoes :meth:`unplug`."""
        _ip("link", "set", f"{self.name}-0", "up")


@contextmanager
def hosts(count: int) -> Iterator[list[Host]]:
    """Makes hosts, and takes them away."""
    found = [Host(f"loco{number}", f"{NETWORK}.{10 + number}") for number in range(count)]
    try:
        _ip("link", "add", BRIDGE, "type", "bridge")
        _ip("address", "add", f"{SWITCH}/24", "dev", BRIDGE)
        _ip("link", "set", BRIDGE, "up")
        for host in found:
            _ip("netns", "add", host.name)
            _ip("link", "add", f"{host.name}-0", "type", "veth", "peer", "name", "eth0", "netns", host.name)
            _ip("link", "set", f"{host.name}-0", "master", BRIDGE, "up")
            _ip("-n", host.name, "address", "add", f"{host.address}/24", "dev", "eth0")
            for device in ("eth0", "lo"):
                _ip("-n", host.name, "link", "set", device, "up")
        yield found
    finally:
        for host in found:
            _ip("netns", "delete", host.name, check=False)
        _ip("link", "delete", BRIDGE, check=False)


def _ip(*words: str, check: bool = True) -> None:
    subprocess.run(("ip", *words), check=check, capture_output=True, text=True, timeout=30)
