"""Nodes of a real cluster that die in the middle of a sweep: how they are killed, and what must hold all the while."""

from __future__ import annotations

import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pandas as pd
import psutil

from tests.support.clusters import COMMAND_SECONDS
from tests.support.sweeps import unit_files

# A node that does not answer for five seconds is dead; Ray's own 15 are of no use to a test.
HEALTH = {
    "RAY_health_check_initial_delay_ms": "1000", "RAY_health_check_period_ms": "1000",
    "RAY_health_check_timeout_ms": "4000", "RAY_health_check_failure_threshold": "2",
    "RAY_gcs_rpc_server_reconnect_timeout_s": "9",
}  # fmt: skip


@contextmanager
def reading(results: Path) -> Iterator[None]:
    """Reads the scores over and over with pandas alone; fails if that ever fails, or shows a row twice."""
    over, errors = threading.Event(), []

    def read() -> None:
        while not over.wait(0.2):
            if not (results / "scores").is_dir():
                continue
            try:
                frame = pd.read_parquet(results / "scores")
                assert not frame.duplicated(["cell_id", "attribute", "control"]).any()
            except Exception as error:
                errors.append(error)
                return

    thread = threading.Thread(target=read, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
    assert not errors


def committed(results: Path) -> int:
    """Counts the units of a results folder."""
    return len(unit_files(results))


def until(what: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    """Waits until something holds; fails when the command that works towards it ends, or takes too long."""
    deadline = time.monotonic() + COMMAND_SECONDS
    while not what():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.1)


def kill_raylet(node: subprocess.Popen[bytes]) -> None:
    """Kills the raylet of a node, and with it all that runs there."""
    raylets = [child for child in psutil.Process(node.pid).children(recursive=True) if child.name() == "raylet"]
    assert len(raylets) == 1
    raylets[0].kill()
