"""``submit``, ``logs``, ``cancel``, ``status`` and ``retry`` against a real Ray cluster on this machine."""

from __future__ import annotations

import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import pytest

from orchestrator.store import open_store
from tests.sweeps import tiny_sweep

TOKEN = secrets.token_hex(32)
CLUSTER = """\
name: small
sweep: sweep.yaml
results: {results}
workers: {{gpus: 0, cpus: 1, max: 1}}
cluster: {{address: "{address}"}}
retries: {{driver: 2}}
"""
START_SECONDS, JOB_SECONDS = 90, 240


@dataclass(frozen=True)
class Head:
    """A cluster of one node, reached like any other."""

    address: str
    home: Path


def _ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [sock.getsockname()[1] for sock in sockets]
    for sock in sockets:
        sock.close()
    return ports


@pytest.fixture(scope="module")
def head(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Head]:
    port, dashboard, agent = _ports(3)
    home = tmp_path_factory.mktemp("home")
    # Paths of sockets must stay short.
    with tempfile.TemporaryDirectory(prefix="ray-", dir="/tmp", ignore_cleanup_errors=True) as folder:
        words = [
            "ray", "start", "--head", "--block", f"--port={port}", f"--dashboard-port={dashboard}",
            f"--dashboard-agent-listen-port={agent}", "--num-cpus=1", "--num-gpus=0", f"--temp-dir={folder}",
            "--object-store-memory=150000000", "--disable-usage-stats",
        ]  # fmt: skip
        environment = _environment(home) | {"RAY_AUTH_MODE": "token", "RAY_worker_niceness": "0"}
        with (home / "head.log").open("w") as log:
            process = subprocess.Popen(words, env=environment, stdout=log, stderr=log, start_new_session=True)
        try:
            _await(dashboard, process, home / "head.log")
            yield Head(f"http://127.0.0.1:{dashboard}", home)
        finally:
            process.terminate()
            process.wait(timeout=60)


def _environment(home: Path) -> dict[str, str]:
    hidden = ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS", "RAY_AUTH_MODE")
    kept = {name: value for name, value in os.environ.items() if name not in hidden}
    here = str(Path(sys.executable).parent)
    return {**kept, "PATH": f"{here}:{kept['PATH']}", "HOME": str(home), "RAY_AUTH_TOKEN": TOKEN}


def _await(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            time.sleep(0.5)
        else:
            return
    raise AssertionError(log.read_text())


@pytest.fixture
def folder(head: Head, tiny_pipeline: Path, tmp_path: Path) -> Path:
    sweep = tiny_sweep(tiny_pipeline, attributes=["style/velor"], seeds=3)
    (tmp_path / "sweep.yaml").write_text(sweep.model_dump_json(exclude_unset=True))
    (tmp_path / "cluster.yaml").write_text(CLUSTER.format(results=tmp_path / "results", address=head.address))
    return tmp_path


def start(head: Head, folder: Path, *words: str, **changes: str) -> subprocess.Popen[str]:
    """Starts a command in a process of its own: how Ray authenticates is settled when it is imported."""
    environment = {**_environment(head.home), **changes}
    command = [sys.executable, "-m", "orchestrator.cli.main", *words]
    return subprocess.Popen(
        command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def call(head: Head, folder: Path, *words: str, **changes: str) -> tuple[int, str, str]:
    process = start(head, folder, *words, **changes)
    out, err = process.communicate(timeout=JOB_SECONDS)
    return process.returncode, out, err


def _drivers(folder: Path) -> list[int]:
    """Returns the processes that drive this test's sweep."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().decode().split("\0")
        except OSError:
            continue
        if "run" in words and str(folder / "results") in words and Path(words[0]).name.startswith("python"):
            found.append(int(path.parent.name))
    return found


def test_a_sweep_outlives_its_driver_and_its_jobs(head: Head, folder: Path) -> None:
    process = start(head, folder, "submit", "cluster.yaml", "--wait")
    units = folder / "results" / "_meta" / "units"
    deadline = time.monotonic() + JOB_SECONDS
    while not (units.is_dir() and list(units.iterdir())):
        assert time.monotonic() < deadline
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    (driver,) = _drivers(folder)
    os.kill(driver, signal.SIGKILL)
    out, err = process.communicate(timeout=JOB_SECONDS)
    assert (process.returncode, err) == (0, ""), out + err
    assert f"{_name(out)}.1: the driver died" in out
    assert f"{_name(out)}.2 is succeeded; results: {folder / 'results'}" in out
    scores = pd.read_parquet(folder / "results" / "scores")
    assert not scores.duplicated(["cell_id", "attribute", "control"]).any()
    planned = sum(plan.num_rows for plan in open_store(str(folder / "results")).plans().values())
    assert 0 < len(scores) <= planned
    code, out, err = call(head, folder, "status", "cluster.yaml", "--json")
    assert (code, err) == (0, "")
    found = json.loads(out)
    assert found["units_done"] == found["units"] > 0
    code, out, err = call(head, folder, "logs", "cluster.yaml")
    assert (code, err) == (0, "")
    assert "cells in" in out
    code, _, err = call(head, folder, "cancel", "cluster.yaml")
    assert (code, "is over (succeeded); there is nothing to cancel" in err) == (1, True)


def _name(out: str) -> str:
    return next(line.split()[1].rpartition(".")[0] for line in out.splitlines() if line.startswith("submitted "))


def test_a_job_that_was_cancelled_is_resumed_by_the_same_command(head: Head, folder: Path) -> None:
    (folder / "cluster.yaml").write_text((folder / "cluster.yaml").read_text().replace("name: small", "name: other"))
    code, out, err = call(head, folder, "submit", "cluster.yaml")
    assert (code, err) == (0, "")
    assert "`loco-sweep logs --follow cluster.yaml`" in out
    code, _, err = call(head, folder, "submit", "cluster.yaml")
    assert (code, "`loco-sweep logs` follows it" in err) == (1, True)
    code, out, err = call(head, folder, "cancel", "cluster.yaml")
    assert (code, err) == (0, "")
    assert "is stopped; results:" in out
    # RAY_ADDRESS, which Ray lets win over what it is given, must not redirect it.
    code, out, err = call(head, folder, "submit", "cluster.yaml", "--wait", RAY_ADDRESS="http://127.0.0.1:1")
    assert (code, err) == (0, "")
    assert "2 is succeeded" in out
    assert len(pd.read_parquet(folder / "results" / "localizations")) == 1


def test_what_goes_wrong_is_one_line(head: Head, folder: Path) -> None:
    code, _, err = call(head, folder, "submit", "cluster.yaml", RAY_AUTH_TOKEN="0" * 64)
    assert (code, "wants a token: set RAY_AUTH_TOKEN" in err, err.count("\n")) == (1, True, 1), err
    text = (folder / "cluster.yaml").read_text()
    (folder / "cluster.yaml").write_text(text.replace(head.address, "http://127.0.0.1:9"))
    code, _, err = call(head, folder, "submit", "cluster.yaml")
    assert (code, "no Ray dashboard answers at http://127.0.0.1:9" in err, err.count("\n")) == (1, True, 1), err
    (folder / "cluster.yaml").write_text(text.replace("name: small", "name: nobody"))
    code, _, err = call(head, folder, "logs", "cluster.yaml")
    assert (code, "has no job of nobody" in err, err.count("\n")) == (1, True, 1), err
