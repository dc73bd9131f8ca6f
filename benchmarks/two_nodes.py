"""Cells a second of two Ray workers on two nodes against one process; ``python -m benchmarks.two_nodes``.

Both run the same sweep of the bundled model with one thread a worker, one after the other in each of several rounds, so
that a machine that slows down slows both. Two workers on two cores can at best be twice as fast.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from pathlib import Path
from typing import Any

from orchestrator.backends.inline import InlineBackend
from orchestrator.runs.sweep import run_sweep
from orchestrator.scheduler.loop import StopSwitch
from orchestrator.scheduler.progress import Progress
from orchestrator.scheduler.protocol import Backend
from orchestrator.spec import SweepSpec
from orchestrator.worker import WorkerSettings
from tests.support.clusters import Head, ray_head, ray_node


def sweep(seeds: int) -> SweepSpec:
    """Returns a sweep of the bundled model."""
    return SweepSpec.model_validate(
        {
            "name": "two-nodes", "models": ["toy"], "attributes": ["style/lumio"], "windows": {"sizes": [1, 2, 3, 4]},
            "prompts": 4, "seeds": seeds, "generation": {"steps": 8, "guidance_scale": 3.0, "batch_size": 62},
            "controls": {"random": 0}, "scorer": "toy-clip", "images": "none", "localize": {"localizer": "argmin"},
        },
        strict=False,
    )  # fmt: skip


class Clock:
    """Notes when a worker of a run had its model."""

    def __init__(self) -> None:
        self.first: float | None = None

    def __call__(self, progress: Progress) -> None:
        """Takes note."""
        if progress.workers and self.first is None:
            self.first = time.perf_counter()


def timed(spec: SweepSpec, root: str, make: Any) -> dict[str, float]:
    """Runs a sweep; returns where its seconds went."""
    clock, began = Clock(), time.perf_counter()
    result = run_sweep(spec, root, make, on_progress=clock, on_localized=lambda _: None, stop=StopSwitch())
    seconds = time.perf_counter() - began
    summary = result.summary
    assert summary.outcome == "done", summary
    working = (clock.first or began) - began
    return {
        "cells": summary.rows, "seconds": seconds, "cells_a_second": summary.rows / seconds,
        "seconds_until_a_worker_has_its_model": working, "unit_seconds": summary.unit_seconds,
        "cells_a_second_after_that": summary.rows / (seconds - working),
    }  # fmt: skip


def measured(head: Head, rounds: int, seeds: int, folder: Path) -> list[dict[str, Any]]:
    """Returns both ways of running the sweep, round by round."""

    def inline(settings: WorkerSettings) -> Backend:
        return InlineBackend(settings, threads=1)

    def two(settings: WorkerSettings) -> Backend:
        # How Ray authenticates is settled when it is imported.
        from orchestrator.backends.ray.backend import RayBackend

        return RayBackend(settings, workers=2, threads=1, address=head.gcs)

    return [
        {
            "inline": timed(sweep(seeds), str(folder / f"inline-{number}"), inline),
            "two nodes": timed(sweep(seeds), str(folder / f"nodes-{number}"), two),
        }
        for number in range(rounds)
    ]


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--seeds", type=int, default=10)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with ray_head(folder, cpus=0) as head, ray_node(head, "first"), ray_node(head, "second"):
            os.environ.update({k: v for k, v in head.environment.items() if k.startswith("RAY_")})
            found = measured(head, arguments.rounds, arguments.seeds, folder)
    for key in ("cells_a_second", "cells_a_second_after_that"):
        for row in found:
            row[f"ratio of {key}"] = row["two nodes"][key] / row["inline"][key]
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
