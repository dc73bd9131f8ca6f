"""Nodes and the head of a real cluster that are killed or drained in the middle of a sweep.

By hand, `make chaos`: they take three minutes, of which Ray needs most to start clusters and to miss nodes.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pandas as pd
import psutil
import pytest

from orchestrator.spec import SweepSpec
from orchestrator.store import open_store, verify
from tests.clusters import COMMAND_SECONDS, Head, call, nodes_alive, ray_head, ray_node, start
from tests.integration.test_edits import run
from tests.sweeps import assert_each_once, payload, tiny_sweep

pytestmark = pytest.mark.chaos
# A node that does not answer for five seconds is dead; Ray's own 15 are of no use to a test.
HEALTH = {
    "RAY_health_check_initial_delay_ms": "1000", "RAY_health_check_period_ms": "1000",
    "RAY_health_check_timeout_ms": "4000", "RAY_health_check_failure_threshold": "2",
    "RAY_gcs_rpc_server_reconnect_timeout_s": "9",
}  # fmt: skip
CLUSTER = """\
name: faults
sweep: sweep.yaml
results: {results}
workers: {{gpus: 0, cpus: 1, max: 2}}
cluster: {{address: "{address}"}}
"""


@pytest.fixture(scope="module")
def spec(tiny_pipeline: Path) -> SweepSpec:
    return tiny_sweep(tiny_pipeline, attributes=["style/velor"], seeds=18)


@pytest.fixture(scope="module")
def undisturbed(spec: SweepSpec, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("undisturbed")
    assert run(spec, root).summary.outcome == "done"
    return root


def assert_same(results: Path, undisturbed: Path) -> None:
    store = open_store(str(results))
    scores = store.read("scores")
    assert_each_once(scores)
    assert payload(scores) == payload(open_store(str(undisturbed)).read("scores"))
    assert verify(store) == []


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
    folder = results / "_meta" / "units"
    return len(list(folder.iterdir())) if folder.is_dir() else 0


def until(what: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + COMMAND_SECONDS
    while not what():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.1)


def kill_raylet(node: subprocess.Popen[bytes]) -> None:
    raylets = [child for child in psutil.Process(node.pid).children(recursive=True) if child.name() == "raylet"]
    assert len(raylets) == 1
    raylets[0].kill()


def test_a_node_that_dies_and_one_that_is_drained_cost_no_row(
    spec: SweepSpec, undisturbed: Path, tmp_path: Path
) -> None:
    results = tmp_path / "results"
    (tmp_path / "sweep.yaml").write_text(spec.model_dump_json(exclude_unset=True))
    with ExitStack() as stack:
        head = stack.enter_context(ray_head(tmp_path, cpus=0, variables=HEALTH))
        (tmp_path / "cluster.yaml").write_text(CLUSTER.format(results=results, address=head.address))
        first = stack.enter_context(ray_node(head, "first"))
        stack.enter_context(ray_node(head, "second"))
        stack.enter_context(reading(results))
        process = start(head, tmp_path, "submit", "cluster.yaml", "--wait")
        until(lambda: committed(results) >= 6, process)
        kill_raylet(first)
        stack.enter_context(ray_node(head, "third"))
        before = committed(results)
        until(lambda: committed(results) >= before + 6, process)
        drain(head, "second")
        out, err = process.communicate(timeout=COMMAND_SECONDS)
        assert (process.returncode, err) == (0, ""), out + err
        progress = json.loads((results / "_meta" / "progress.json").read_text())
        assert progress["losses"] >= 1, progress
    assert_same(results, undisturbed)


def drain(head: Head, name: str) -> None:
    """Announces that a node is going to be taken away."""
    node = next(row["node_id"] for row in nodes_alive(head) if row["labels"].get("name") == name)
    words = [
        "ray", "drain-node", f"--address={head.gcs}", f"--node-id={node}", "--reason=DRAIN_NODE_REASON_PREEMPTION",
        "--reason-message=spot", "--deadline-remaining-seconds=60",
    ]  # fmt: skip
    subprocess.run(words, env=dict(head.environment), check=True, capture_output=True, timeout=60)


def test_a_head_that_dies_ends_the_run_in_one_line_and_another_head_resumes_it(
    spec: SweepSpec, undisturbed: Path, tmp_path: Path
) -> None:
    results = tmp_path / "results"
    (tmp_path / "sweep.yaml").write_text(spec.model_dump_json(exclude_unset=True))
    words = ["run", "sweep.yaml", "--results", str(results), "--workers", "2", "--threads", "1", "--address"]
    with ray_head(tmp_path, cpus=2, variables=HEALTH) as head:
        process = start(head, tmp_path, *words, head.gcs, RAY_AUTH_MODE="token")
        until(lambda: committed(results) >= 6, process)
        os.killpg(head.pid, signal.SIGKILL)
        out, err = process.communicate(timeout=COMMAND_SECONDS)
        assert process.returncode == 1, out + err
        assert "the same command resumes" in err, err
        assert err.count("\n") == 1, err
    done = committed(results)
    with ray_head(tmp_path, cpus=2) as head:
        code, out, err = call(head, tmp_path, *words, head.gcs, RAY_AUTH_MODE="token")
        assert (code, err) == (0, ""), out + err
    assert 0 < done < committed(results)
    assert_same(results, undisturbed)
