"""Ten kills of the driver and ten of workers, in the middle of units; by hand, `make chaos`."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from orchestrator.backends.inline import InlineBackend
from orchestrator.backends.ray.backend import RayBackend
from orchestrator.runs.sweep import RunResult, run_sweep
from orchestrator.scheduler.loop import StopSwitch
from orchestrator.scheduler.protocol import Backend
from orchestrator.spec import SweepSpec, load_sweep
from orchestrator.store import open_store
from orchestrator.worker import WorkerSettings
from tests.support.sweeps import assert_each_once, payload, unit_files

pytestmark = pytest.mark.chaos
KILLS = 10
SWEEP = """
name: chaos
models: [toy]
attributes: [style/velor, fact/zandia]
windows: {sizes: [1], stride: 1}
prompts: 4
seeds: 4
generation: {steps: 8, guidance_scale: 3.0, batch_size: 20}
controls: {random: 0}
scorer: toy-clip
localize: {resamples: 100}
images: none
"""


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("chaos") / "sweep.yaml"
    path.write_text(SWEEP)
    return path


@pytest.fixture(scope="module")
def undisturbed(sweep: Path, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    root = str(tmp_path_factory.mktemp("undisturbed"))
    run(load_sweep(sweep), root, lambda settings: InlineBackend(settings, threads=1))
    return cells(open_store(root).read("scores"))


def run(spec: SweepSpec, root: str, make: Any, on_progress: Any = lambda _: None, *, retry: bool = False) -> RunResult:
    return run_sweep(
        spec, root, make, on_progress=on_progress, on_localized=lambda _: None, stop=StopSwitch(), retry=retry
    )


def cells(scores: pa.Table) -> list[dict[str, Any]]:
    """A cell that was given up and retried is in a unit of another name."""
    return payload(scores.drop_columns(["unit_id"]))


def check(root: str, undisturbed: list[dict[str, Any]]) -> None:
    scores = open_store(root).read("scores")
    assert_each_once(scores)
    assert cells(scores) == undisturbed


def units(root: Path) -> int:
    return len(unit_files(root))


def test_a_driver_killed_in_the_middle_of_units(sweep: Path, undisturbed: list[dict[str, Any]], tmp_path: Path) -> None:
    rng, words = (
        random.Random(1),
        ["run", str(sweep), "--results", str(tmp_path), "--backend", "inline", "--threads", "1"],
    )
    for kill in range(KILLS):
        before = units(tmp_path)
        child = subprocess.Popen([sys.executable, "-m", "orchestrator.cli.main", *words])
        deadline = time.monotonic() + 120
        while units(tmp_path) < before + 1 and child.poll() is None and time.monotonic() < deadline:
            time.sleep(0.05)
        # A unit takes a second here: most kills hit one in the middle.
        time.sleep(rng.uniform(0.1, 0.9))
        assert child.poll() is None, "the sweep is over before it was killed ten times"
        child.send_signal(signal.SIGKILL)
        child.wait()
        print(f"kill {kill}: driver {child.pid} after {units(tmp_path)} units")
    assert run(load_sweep(sweep), str(tmp_path), lambda s: InlineBackend(s, threads=1)).summary.outcome == "done"
    check(str(tmp_path), undisturbed)


def test_workers_killed_in_the_middle_of_units(sweep: Path, undisturbed: list[dict[str, Any]], tmp_path: Path) -> None:
    rng, killed, backends = random.Random(2), list[int](), list[RayBackend]()
    lock = threading.Lock()

    def make(settings: WorkerSettings) -> Backend:
        backends.append(RayBackend(settings, workers=2, threads=1))
        return backends[-1]

    def kill(progress: Any) -> None:
        with lock:
            if len(killed) < KILLS and progress.running and progress.done >= 3 * len(killed) + 1:
                time.sleep(rng.uniform(0.0, 0.5))
                places = list(backends[-1]._places.values())
                if places:
                    victim = rng.choice(places).pid
                    os.kill(victim, signal.SIGKILL)
                    killed.append(victim)
                    print(f"kill {len(killed)}: worker {victim} after {progress.done} units")

    result = run(load_sweep(sweep), str(tmp_path), make, kill)
    assert result.summary.outcome == "done"
    assert len(killed) == KILLS
    if result.failed_cells:
        # A unit whose worker died three times is given up, with a row a cell; nothing else is lost.
        print(f"{result.failed_cells} cells were given up and are retried")
        assert run(load_sweep(sweep), str(tmp_path), make, retry=True).failed_cells == 0
    check(str(tmp_path), undisturbed)
