"""Nodes and the head of a real cluster that are killed or drained in the middle of a sweep.

By hand, `make chaos`: they take three minutes, of which Ray needs most to start clusters and to miss nodes.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
from contextlib import ExitStack
from pathlib import Path

import pytest

from orchestrator.spec import SweepSpec
from orchestrator.store import open_store
from tests.support.clusters import COMMAND_SECONDS, Head, call, nodes_alive, ray_head, ray_node, start
from tests.support.nodes import HEALTH, committed, kill_raylet, reading, until
from tests.support.runs import run
from tests.support.sweeps import assert_same, tiny_sweep

pytestmark = pytest.mark.chaos
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
    assert_same(open_store(str(results)), open_store(str(undisturbed)))


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
    assert_same(open_store(str(results)), open_store(str(undisturbed)))
