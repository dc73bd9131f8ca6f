"""``submit``, ``logs``, ``cancel``, ``status`` and ``retry`` against a real Ray cluster on this machine."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest
import yaml

from orchestrator.store import open_store
from tests.support.clusters import COMMAND_SECONDS, Head, call, ray_head, start
from tests.support.inbox import Inbox, inbox
from tests.support.sweeps import tiny_sweep, unit_files

CLUSTER = """\
name: small
sweep: sweep.yaml
results: {results}
workers: {{gpus: 0, cpus: 1, max: 1}}
cluster: {{address: "{address}"}}
retries: {{driver: 2}}
"""


@pytest.fixture(scope="module")
def head(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Head]:
    with ray_head(tmp_path_factory.mktemp("home")) as head:
        yield head


@pytest.fixture
def folder(head: Head, tiny_pipeline: Path, tmp_path: Path) -> Path:
    sweep = tiny_sweep(tiny_pipeline, attributes=["style/velor"], seeds=3)
    (tmp_path / "sweep.yaml").write_text(sweep.model_dump_json(exclude_unset=True))
    (tmp_path / "cluster.yaml").write_text(CLUSTER.format(results=tmp_path / "results", address=head.address))
    return tmp_path


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
    sweep = yaml.safe_load((folder / "sweep.yaml").read_text())
    (folder / "sweep.yaml").write_text(yaml.safe_dump({**sweep, "notify": "${env:NOTIFY_HERE}"}))
    with inbox() as taken:
        _outlive(head, folder, taken)
    # By whoever submitted it: the driver had no time to.
    assert taken.titles == ["loco-sweep: small: its driver died"]
    assert ".1: " in taken.messages[0]["message"]
    assert "it is submitted again" in taken.messages[0]["message"]


def _outlive(head: Head, folder: Path, taken: Inbox) -> None:
    process = start(head, folder, "submit", "cluster.yaml", "--wait", NOTIFY_HERE=taken.address)
    deadline = time.monotonic() + COMMAND_SECONDS
    # The first one is logged when the second one is done.
    while len(unit_files(folder / "results")) < 2:
        assert time.monotonic() < deadline
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    (driver,) = _drivers(folder)
    os.kill(driver, signal.SIGKILL)
    out, err = process.communicate(timeout=COMMAND_SECONDS)
    assert (process.returncode, err) == (0, ""), out + err
    assert f"{_name(out)}.1: the driver died" in out
    assert f"{_name(out)}.2 is succeeded; results: {folder / 'results'}" in out
    scores = pd.read_parquet(folder / "results" / "scores")
    assert not scores.duplicated(["cell_id", "attribute", "control"]).any()
    planned = sum(sum(plan["cells"].to_pylist()) for plan in open_store(str(folder / "results")).plans().values())
    assert 0 < len(scores) == planned
    code, out, err = call(head, folder, "status", "cluster.yaml", "--json")
    assert (code, err) == (0, "")
    found = json.loads(out)
    assert found["units_done"] == found["units"] > 0
    code, out, err = call(head, folder, "logs", "cluster.yaml")
    assert (code, err) == (0, "")
    assert "cells in" in out
    code, out, err = call(head, folder, "logs", "cluster.yaml", "--workers")
    assert (code, err) == (0, "")
    units = {record["unit_id"] for line in out.splitlines() if "unit_id" in (record := json.loads(line))}
    # The other units are in the logs of the job whose driver was killed.
    done = sorted(unit_files(folder / "results").values(), key=lambda path: path.stat().st_mtime)
    everything = {path.stem for path in done}
    assert units
    assert units < everything
    for unit in (next(iter(units)), done[0].stem):
        code, out, err = call(head, folder, "logs", "cluster.yaml", "--workers", unit[:12])
        assert (code, err) == (0, "")
        assert {json.loads(line)["unit_id"] for line in out.splitlines()} == {unit}
    code, _, err = call(head, folder, "logs", "cluster.yaml", "--workers", "nothing")
    assert (code, "nothing was logged of unit nothing on nodes that are up" in err) == (1, True)
    code, _, err = call(head, folder, "cancel", "cluster.yaml")
    assert (code, "is over (succeeded); there is nothing to cancel" in err) == (1, True)


def _name(out: str) -> str:
    return next(line.split()[1].rpartition(".")[0] for line in out.splitlines() if line.startswith("submitted "))


def test_a_job_that_was_cancelled_is_resumed_by_the_same_command(head: Head, folder: Path) -> None:
    (folder / "cluster.yaml").write_text((folder / "cluster.yaml").read_text().replace("name: small", "name: other"))
    # So many that it does not end while the next two commands start.
    (folder / "sweep.yaml").write_text((folder / "sweep.yaml").read_text().replace('"seeds":[0,1,2]', '"seeds":60'))
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
