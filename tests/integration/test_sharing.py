"""Two drivers on one Ray: each has its share of the workers, and all of them once the other is gone."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.clusters import COMMAND_SECONDS, Head, ray_head

CPUS = 4
DRIVER = """
import sys, time
from pathlib import Path
from orchestrator.backends.ray.backend import RayBackend
from orchestrator.scheduler.loop import StopSwitch, run_units
from orchestrator.scheduler.protocol import Unit, UnitReport
from tests.support.planners import Derived
from tests.support.scripted import Diary

class Sleeper:
    def __init__(self, model):
        pass
    def run(self, unit, attempt):
        time.sleep(0.2)
        return UnitReport(unit.unit_id, attempt.number, "committed")

def show(progress):
    print(progress.workers, progress.done, flush=True)

address, priority, count = sys.argv[1], float(sys.argv[2]), int(sys.argv[3])
units = [Unit(f"u{n:04d}", "sweep", "a", n, 0.2, None) for n in range(count)]
import ray
ray.cloudpickle.register_pickle_by_value(sys.modules["__main__"])
backend = RayBackend(Sleeper, workers=None, threads=1, address=address, priority=priority)
run_units(backend, Derived(units), Diary(), show, StopSwitch())
backend.shutdown()
"""


def start(head: Head, folder: Path, priority: float, units: int) -> tuple[subprocess.Popen[bytes], Callable[[], int]]:
    log = folder / f"{priority:g}.log"
    with log.open("wb") as out:
        process = subprocess.Popen(
            [sys.executable, "-c", DRIVER, head.gcs, str(priority), str(units)], stdout=out, stderr=subprocess.STDOUT,
            env=head.environment,
        )  # fmt: skip

    def workers() -> int:
        assert process.poll() in (None, -9), log.read_text()
        lines = [line.split() for line in log.read_text().splitlines() if line[:1].isdigit()]
        return int(lines[-1][0]) if lines else 0

    return process, workers


def until(what: Callable[[], bool], seconds: float = COMMAND_SECONDS) -> None:
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.2)


def test_two_drivers_share_by_weight_and_one_that_is_killed_leaves_its_share(
    tmp_path_factory: pytest.TempPathFactory, tmp_path: Path
) -> None:
    with ray_head(tmp_path_factory.mktemp("home"), cpus=CPUS) as head:
        heavy, of_heavy = start(head, tmp_path, 3, 100_000)
        light, of_light = start(head, tmp_path, 1, 100_000)
        try:
            until(lambda: (of_heavy(), of_light()) == (3, 1))
            time.sleep(8.0)
            assert (of_heavy(), of_light()) == (3, 1), "it stays so"
            heavy.kill()
            until(lambda: of_light() == CPUS)
        finally:
            for process in (heavy, light):
                process.kill()
                process.wait()
