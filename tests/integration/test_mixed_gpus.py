"""A model that fits one node of three, on a real cluster whose nodes say what GPUs they have: those are made up."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from tests.support.clusters import ray_head, ray_node

DRIVER = """
import json, sys
import ray
from orchestrator.backends.ray import actor
from orchestrator.backends.ray.backend import RayBackend
from orchestrator.scheduler.loop import StopSwitch, run_units
from orchestrator.scheduler.needs import Node, WorkerNeeds
from orchestrator.scheduler.protocol import Unit, UnitReport
from tests.support.planners import Derived
from tests.support.scripted import Diary

def described(name, gpus):
    size = 80 if ray.get_runtime_context().get_node_labels().get("name") == "large" else 24
    return Node(name, f"NVIDIA X{size}", size * 2**30)

class Worker:
    def run(self, unit, attempt):
        return UnitReport(unit.unit_id, attempt.number, "committed", reported=ray.get_runtime_context().get_node_id())

class Make:
    def __setstate__(self, state):
        actor.describe = described
    def __getstate__(self):
        return {"no": "state"}
    def __call__(self, model):
        return Worker()

ray.cloudpickle.register_pickle_by_value(sys.modules["__main__"])
backend = RayBackend(Make(), workers=3, threads=1, address=sys.argv[1])
large = {node["NodeID"] for node in ray.nodes() if node["Labels"].get("name") == "large"}
starts, start = [], backend.start_worker
backend.start_worker = lambda worker, needs, avoid: (starts.append(sorted(avoid)), start(worker, needs, avoid))
units = [Unit(f"u{n:02d}", "sweep", "a", n, 1.0, None, WorkerNeeds(0, (), (), 40 * 2**30)) for n in range(12)]
ran = []
def settled(done):
    ran.extend(item.report.reported for item in done)
    return ()
summary = run_units(backend, Derived(units, settled), Diary(), lambda progress: None, StopSwitch())
backend.shutdown()
print(json.dumps({"outcome": summary.outcome, "committed": summary.committed, "failed": len(summary.failures),
                  "on": sorted(set(ran)), "large": sorted(large), "starts": len(starts), "avoided": starts[-1]}))
"""


def test_what_does_not_fit_a_node_is_not_offered_there_and_nobody_comes_back_to_it(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    with ray_head(tmp_path_factory.mktemp("home")) as head, ray_node(head, "small"), ray_node(head, "large"):
        done = subprocess.run(
            [sys.executable, "-c", DRIVER, head.gcs], env=head.environment, capture_output=True, text=True, check=False,
            timeout=300,
        )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert (found["outcome"], found["committed"], found["failed"]) == ("done", 12, 0)
    assert found["on"] == found["large"]
    assert found["starts"] < 10
    assert found["avoided"], "the next one is asked for elsewhere"
    assert not set(found["avoided"]) & set(found["large"])
