"""The port that a cluster's dashboard is forwarded to: `ray dashboard` binds it, long after it was chosen."""

from __future__ import annotations

import socket
import sys
from pathlib import Path

import pytest

from loco_core.errors import ClusterError
from orchestrator.submit import launcher

FAKE_RAY = """\
import pathlib, socket, sys

port = int(sys.argv[4])
with pathlib.Path({said!r}).open("a") as said:
    print(port, file=said)
if {down}:
    sys.exit("the cluster is down")
with socket.create_server(("127.0.0.1", port)) as server:
    while True:
        server.accept()
"""


@pytest.fixture
def said(tmp_path: Path) -> Path:
    return tmp_path / "said"


def fake_ray(said: Path, monkeypatch: pytest.MonkeyPatch, *, down: bool = False) -> None:
    path = said.with_name("ray.py")
    path.write_text(FAKE_RAY.format(said=str(said), down=down))
    monkeypatch.setattr(launcher, "RAY", (sys.executable, str(path)))


def test_a_port_that_another_process_takes_first_is_left_to_it(said: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_ray(said, monkeypatch)
    with socket.socket() as other:
        # Chosen while it is free, then bound by somebody else.
        other.bind((launcher.LOOPBACK, 0))
        taken, free = other.getsockname()[1], next(launcher._ports())
        monkeypatch.setattr(launcher, "_ports", lambda: iter((taken, free)))
        with launcher.forwarded(Path("ray.yaml")) as address:
            assert address == f"http://127.0.0.1:{free}"
            socket.create_connection((launcher.LOOPBACK, free)).close()
    assert said.read_text().split() == [str(taken), str(free)]
    # What forwards has ended with it.
    assert launcher._is_free(free)


def test_a_cluster_that_is_down_is_said_at_once(said: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_ray(said, monkeypatch, down=True)
    with (
        pytest.raises(ClusterError, match=r"ray\.yaml: the cluster's dashboard cannot be reached: the cluster is down"),
        launcher.forwarded(Path("ray.yaml")),
    ):
        pass
    assert len(said.read_text().split()) == 1
