"""``submit``, ``logs``, ``status`` and ``cancel`` on a real Slurm of two nodes on this machine."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pandas as pd
import pytest

from orchestrator.store import open_store
from tests.support.clusters import COMMAND_SECONDS
from tests.support.slurm import Slurm, slurm, why_not
from tests.support.sweeps import tiny_sweep, unit_files

pytestmark = pytest.mark.skipif(why_not() is not None, reason=why_not() or "")

CLUSTER = """\
name: small
sweep: sweep.yaml
results: {results}
workers: {{gpus: 1, cpus: 1, max: 2}}
cluster: {{slurm: {{gpus_per_node: 1, {more}}}}}
"""


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Slurm]:
    with slurm(tmp_path_factory.mktemp("slurm")) as found, found.node("n1"), found.node("n2"):
        yield found


@pytest.fixture
def folder(tiny_pipeline: Path, tmp_path: Path) -> Path:
    # As many as are not done when the job has been told to end.
    sweep = tiny_sweep(tiny_pipeline, attributes=["style/velor"], seeds=24)
    (tmp_path / "sweep.yaml").write_text(sweep.model_dump_json(exclude_unset=True))
    return tmp_path


def _start(slurm: Slurm, folder: Path, *words: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "orchestrator.cli.main", *words]
    return subprocess.Popen(
        command, cwd=folder, env=slurm.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def _call(slurm: Slurm, folder: Path, *words: str) -> tuple[int, str, str]:
    process = _start(slurm, folder, *words)
    out, err = process.communicate(timeout=COMMAND_SECONDS)
    return process.returncode, out, err


def _until(true: Callable[[], bool], process: subprocess.Popen[str] | None = None) -> None:
    deadline = time.monotonic() + COMMAND_SECONDS
    while not true():
        assert time.monotonic() < deadline
        assert process is None or process.poll() is None, process.communicate()
        time.sleep(0.1)


@contextmanager
def _submitted(slurm: Slurm, folder: Path, more: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Submits, and yields once the first unit is committed: the command that waits, and the job."""
    (folder / "cluster.yaml").write_text(CLUSTER.format(results=folder / "results", more=more))
    process = _start(slurm, folder, "submit", "cluster.yaml", "--wait")
    try:
        _until(lambda: bool(unit_files(folder / "results")), process)
        (noted,) = folder.glob("slurm/*/job")
        yield process, noted.read_text()
    finally:
        process.kill()
        process.wait()


def test_a_job_that_is_about_to_end_is_queued_again_until_the_sweep_is_done(cluster: Slurm, folder: Path) -> None:
    with _submitted(cluster, folder, "nodes: 2, time: 0:30:00, notice: 40") as (process, job):
        # As Slurm does before the time limit.
        cluster.call("scancel", "--batch", "--signal=USR1", job)
        _until(lambda: cluster.call("squeue", "--noheader", f"--jobs={job}", "--format=%T %r") == "PENDING BeginTime")
        _until(lambda: cluster.has_ended(job))
        code, _, err = _call(cluster, folder, "submit", "cluster.yaml")
        assert (code, f"job {job} of small is pending; `loco-sweep logs` follows it" in err) == (1, True), err
        done = len(open_store(str(folder / "results")).committed())
        # Slurm itself waits two minutes.
        cluster.call("scontrol", "update", f"JobId={job}", "StartTime=now")
        out, err = process.communicate(timeout=COMMAND_SECONDS)
    assert (process.returncode, err) == (0, ""), out + err
    assert f"job {job} is queued again" in out
    assert f"job {job} is completed; results: {folder / 'results'}" in out
    code, status, err = _call(cluster, folder, "status", "cluster.yaml", "--json")
    assert (code, err) == (0, "")
    assert json.loads(status)["units_done"] == json.loads(status)["units"] > done > 0
    scores = pd.read_parquet(folder / "results" / "scores")
    assert not scores.duplicated(["cell_id", "attribute", "control"]).any()
    code, log, err = _call(cluster, folder, "logs", "cluster.yaml")
    assert (code, err) == (0, "")
    assert log.count("cells in") == 2
    unit = sorted(open_store(str(folder / "results")).committed())[0]
    code, said, err = _call(cluster, folder, "logs", "cluster.yaml", "--workers", unit)
    assert (code, err) == (0, "")
    assert {json.loads(line)["unit_id"] for line in said.splitlines()} == {unit}
    assert "Killed" not in log
    code, _, err = _call(cluster, folder, "cancel", "cluster.yaml")
    assert (code, f"job {job} is over (completed); there is nothing to cancel" in err) == (1, True)


def test_an_array_joins_one_driver_and_is_cancelled_with_it(cluster: Slurm, folder: Path) -> None:
    with _submitted(cluster, folder, "array: 2, head_cpus: 1, time: 0:30:00, notice: 40") as (process, job):
        _until(lambda: sum("-workers RUNNING" in line for line in cluster.states()) == 2, process)
        code, out, err = _call(cluster, folder, "cancel", "cluster.yaml")
        assert (code, err) == (0, "")
        assert f"job {job} is cancelled; results: {folder / 'results'}" in out
        out, err = process.communicate(timeout=COMMAND_SECONDS)
    assert (process.returncode, err) == (4, ""), out + err
    _until(lambda: not any("-workers RUNNING" in line for line in cluster.states()))


@pytest.mark.chaos
def test_a_job_reaches_its_time_limit_and_goes_on_after_it(cluster: Slurm, tiny_pipeline: Path, tmp_path: Path) -> None:
    sweep = tiny_sweep(tiny_pipeline, attributes=["style/velor"], prompts=8, seeds=32)
    (tmp_path / "sweep.yaml").write_text(sweep.model_dump_json(exclude_unset=True))
    with _submitted(cluster, tmp_path, "nodes: 2, time: 0:01:00, notice: 15") as (process, job):
        out, err = process.communicate(timeout=4 * COMMAND_SECONDS)
    assert (process.returncode, err) == (0, ""), out + err
    assert out.count(f"job {job} is queued again") >= 1
    history = cluster.history(job)
    # It put itself back in time: Slurm never had to end it.
    assert history[-1] == "COMPLETED"
    assert "TIMEOUT" not in history


@pytest.mark.chaos
@pytest.mark.parametrize("more", ["nodes: 2", "array: 2, head_cpus: 1"])
def test_a_node_that_dies_takes_the_other_along_neither_of_a_job_nor_of_an_array(
    folder: Path, more: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    with slurm(tmp_path_factory.mktemp("slurm")) as cluster, cluster.node("n1"), cluster.node("n2"):
        with _submitted(cluster, folder, f"{more}, time: 0:30:00, notice: 40") as (process, job):
            cluster.kill("n2")
            out, err = process.communicate(timeout=COMMAND_SECONDS)
        assert (process.returncode, err) == (0, ""), out + err
        assert cluster.history(job)[-1] == "COMPLETED"
    scores = pd.read_parquet(folder / "results" / "scores")
    assert not scores.duplicated(["cell_id", "attribute", "control"]).any()
