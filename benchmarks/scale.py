"""What the orchestrator itself costs: a sweep whose cells are made up; ``python benchmarks/scale.py [--cells N]``.

Everything is real but the pictures: plan, scheduler, commits with fsync, embeddings, publishing, localization, status,
and a second run that finds nothing to do. ``--results s3://..`` measures a bucket, ``--plan-only`` the plan alone.
"""

from __future__ import annotations

import argparse
import json
import resource
import shutil
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import psutil

from loco_core.attributes import attribute
from orchestrator import driver
from orchestrator.backends.inline import InlineBackend
from orchestrator.plan import PlannedRow, PlannedUnit, plan
from orchestrator.resolve import Resolved, ResolvedModel, ResolvedScorer
from orchestrator.scheduler.loop import StopSwitch
from orchestrator.scheduler.protocol import Unit, UnitReport
from orchestrator.spec import SweepSpec, WorkerNeeds
from orchestrator.stages.status import survey
from orchestrator.store import SCHEMA_VERSION, Store, make_table, open_store
from orchestrator.worker import WorkerSettings, cell_columns

UNIT_CELLS = 32
WIDTH = 512
ATTRIBUTES = ("style/lumio", "style/velor", "object/star", "object/circle", "fact/zandia")
PROMPTS = 4


def sweep(cells: int) -> SweepSpec:
    """Returns a sweep of about so many cells, in units of ``UNIT_CELLS``."""
    # A block of 4 sizes and 16 sites has 58 windows, its clean and donor images, identity and all sites.
    per_seed = 62 * len(ATTRIBUTES) * PROMPTS
    return SweepSpec.model_validate(
        {
            "name": "scale", "models": ["toy"], "attributes": list(ATTRIBUTES), "windows": {"sizes": [1, 2, 3, 4]},
            "prompts": PROMPTS, "seeds": max(1, cells // per_seed), "controls": {"random": 0}, "images": "none",
            "generation": {"steps": 8, "guidance_scale": 3.0, "batch_size": UNIT_CELLS + 1}, "scorer": "toy-clip",
        },
        strict=False,
    )  # fmt: skip


def resolved() -> Resolved:
    """Returns the names of a model that nobody loads, slow enough for a unit to be one batch."""
    model = ResolvedModel(
        id="toy", family="stable_diffusion", path="/nowhere", revision=None, weights="w", dtype="float32",
        site_names=tuple(f"site{i}" for i in range(16)), native_side=64, seconds_per_image=30.0, worker=WorkerNeeds(),
    )  # fmt: skip
    scorer = ResolvedScorer(name="toy-clip", source="toy-clip", revision=None, weights="c")
    return Resolved(models=(model,), attributes=tuple(map(attribute, ATTRIBUTES)), scorer=scorer)


class NoOpWorker:
    """Commits made-up scores and embeddings: sites 4 and 5 hold everything."""

    def __init__(self, settings: WorkerSettings, model: str) -> None:
        self._settings, self._info = settings, settings.resolved.model(model)
        self._store = open_store(settings.results, create=False)
        self._rng = np.random.default_rng(0)

    def run(self, unit: Unit, attempt: int, row_by_row: bool) -> UnitReport:
        """See :class:`orchestrator.scheduler.protocol.Worker`."""
        planned: PlannedUnit = unit.payload
        rows = [row for row in planned.rows if row.emit]
        embeddings = self._rng.standard_normal((len(rows), WIDTH), dtype=np.float32)
        names = ("unit_id", "cell_id", "image_id", "model")
        tables = {
            "scores": make_table("scores", [self._score(row) for row in rows]),
            "embeddings": make_table(
                "embeddings",
                [
                    {**{name: getattr(row, name) for name in names}, "scorer": "toy-clip", "scorer_revision": "c",
                     "embedding": values.tolist()}
                    for row, values in zip(rows, embeddings, strict=True)
                ],
            ),
        }  # fmt: skip
        outcome = self._store.commit_unit(unit.unit_id, tables, f"{unit.unit_id}-{attempt}")
        return UnitReport(unit.unit_id, attempt, "committed" if outcome == "won" else "already", rows=len(rows))

    def _score(self, row: PlannedRow) -> dict[str, Any]:
        gone = row.control == "donor" or {4, 5} <= set(row.site_indices)
        score = (0.0 if gone and row.control != "identity" else 0.3) + self._rng.normal(0, 0.01)
        return {
            **cell_columns(row, self._settings.sweep_id, self._info), "steps": 8, "clip_score": score,
            "clip_score_donor": 0.1, "clip_score_content": 0.4,
            "clip_score_unrelated": 0.05 if row.control == "clean" else None, "status": "ok", "attempt": 1,
            "schema_version": SCHEMA_VERSION,
        }  # fmt: skip


@contextmanager
def memory() -> Iterator[list[float]]:
    """Yields samples of this process's resident memory in MB, one a second."""
    over, process = threading.Event(), psutil.Process()
    samples = [process.memory_info().rss / 1e6]

    def sample() -> None:
        while not over.wait(1.0):
            samples.append(process.memory_info().rss / 1e6)

    thread = threading.Thread(target=sample, daemon=True)
    thread.start()
    try:
        yield samples
    finally:
        over.set()
        thread.join()


def run(spec: SweepSpec, root: str) -> driver.RunResult:
    """Runs what remains of the sweep, in this process."""
    return driver.run(
        spec, root, lambda settings: InlineBackend(lambda model: NoOpWorker(settings, model), threads=1),
        on_progress=lambda _: None, on_localized=lambda _: None, stop=StopSwitch(),
    )  # fmt: skip


def measured(spec: SweepSpec, root: str) -> dict[str, Any]:
    """Returns what a sweep of no-op cells costs from its plan to its status."""
    began = time.perf_counter()
    with memory() as samples:
        result = run(spec, root)
    seconds = time.perf_counter() - began
    at = [samples[(len(samples) - 1) * part // 4] for part in (1, 2, 4)]
    began = time.perf_counter()
    again = run(spec, root)
    resume = time.perf_counter() - began
    store = open_store(root)
    began = time.perf_counter()
    status = survey(store)
    looked = time.perf_counter() - began
    return {
        "cells": result.summary.rows, "units": result.summary.committed, "seconds": seconds,
        "plan_seconds": seconds - result.summary.seconds, "run_seconds": result.summary.seconds,
        "cells_a_second": result.summary.rows / seconds,
        "memory_mb_at_a_quarter_half_end": at,
        "peak_memory_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3,
        "resume_seconds": resume, "resumed_units": again.summary.committed, "status_seconds": looked,
        "status_units": [status.units_done, status.units], "localized": [f.outcome for f in result.localizations],
        **_read(store, root),
    }  # fmt: skip


def _read(store: Store, root: str) -> dict[str, Any]:
    files = store.blobs.list("scores")
    began = time.perf_counter()
    frame = pd.read_parquet(f"{root}/scores")
    seconds = time.perf_counter() - began
    return {"read_parquet_seconds": seconds, "read_rows": len(frame), "files_in_scores": len(files)}


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cells", type=int, default=1_000_000)
    parser.add_argument("--results", help="folder or s3:// address that is empty; default: a temporary folder")
    parser.add_argument("--plan-only", action="store_true")
    arguments = parser.parse_args()
    spec = sweep(arguments.cells)
    if arguments.plan_only:
        began = time.perf_counter()
        units = plan(spec, resolved())
        found: dict[str, Any] = {
            "cells": sum(row.emit for unit in units for row in unit.rows), "units": len(units),
            "seconds": time.perf_counter() - began,
            "peak_memory_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3,
        }  # fmt: skip
        print(json.dumps(found, indent=1))
        return
    driver.resolve = lambda spec: resolved()  # type: ignore[assignment,attr-defined]
    root = arguments.results or tempfile.mkdtemp(prefix="scale-")
    try:
        print(json.dumps(measured(spec, root), indent=1))
    finally:
        if not arguments.results:
            shutil.rmtree(Path(root), ignore_errors=True)


if __name__ == "__main__":
    main()
