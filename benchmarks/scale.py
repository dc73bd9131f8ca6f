"""What the orchestrator itself costs: a sweep whose cells are made up; ``python benchmarks/scale.py [--cells N]``.

Everything is real but the pictures: plan, scheduler, commits with fsync, embeddings, publishing, localization, status,
and a second run that finds nothing to do. Worker and driver are one process, so that its CPU time is that of both;
``worker_cpu_seconds`` says what workers took of it. ``--results s3://..`` measures a bucket, ``--plan-only`` the plan.
"""

from __future__ import annotations

import argparse
import json
import resource
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pandas as pd
import psutil
import pyarrow as pa

from loco_core.attributes import attribute
from orchestrator.backends.inline import InlineBackend
from orchestrator.resolve.resolved import Resolved, ResolvedModel, ResolvedScorer
from orchestrator.runs.status import survey
from orchestrator.runs.sweep import RunResult, run_sweep
from orchestrator.scheduler.loop import StopSwitch
from orchestrator.scheduler.protocol import Attempt, Unit, UnitReport
from orchestrator.spec import SweepSpec, WorkerNeeds
from orchestrator.stages.sweep.plan import counted, plan
from orchestrator.stages.sweep.planned import SweepUnit
from orchestrator.stages.sweep.rows import PlannedRow, cell_columns, reported, rows_of
from orchestrator.store import SCHEMA_VERSION, Store, layout, make_table, open_store
from orchestrator.store.checksums import encode_table
from orchestrator.store.local import LocalBlobs
from orchestrator.worker import WorkerSettings

T = TypeVar("T")
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
            "generation": {
                "steps": 8, "guidance_scale": 3.0, "batch_size": UNIT_CELLS + 1, "unit_seconds": 30,
            },
            "scorer": "toy-clip",
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


@dataclass
class Tally:
    """What was counted in this process.

    Attributes:
        worker_seconds: CPU time of workers.
        reads: of files of units, in the loop's thread and beside it.
    """

    worker_seconds: float = 0.0
    reads: dict[str, int] = field(default_factory=lambda: {"loop": 0, "beside": 0})


class NoOpWorker:
    """Commits made-up scores and embeddings: sites 4 and 5 hold everything."""

    def __init__(self, settings: WorkerSettings, model: str, tally: Tally, store: Store | None = None) -> None:
        self._settings, self._info, self._tally = settings, settings.resolved.model(model), tally
        self._store = store or open_store(settings.results, create=False)
        self._rng = np.random.default_rng(0)

    def run(self, unit: Unit, attempt: Attempt) -> UnitReport:
        """See :class:`orchestrator.scheduler.protocol.Worker`."""
        began = time.thread_time()
        planned: SweepUnit = unit.payload
        scorer, generation = self._settings.resolved.scorer, self._info.generation(self._settings.generation)
        rows = [row for row in rows_of(planned, self._info, scorer, generation) if row.emit]
        scores = make_table("scores", [self._score(row) for row in rows])
        tables = {"scores": scores, "embeddings": self._embeddings(scores)}
        won = self._store.commit_unit(unit.unit_id, tables, f"{unit.unit_id}-{attempt.number}") == "won"
        told = reported(scores, [row.cell_id for row in rows]) if won else None
        self._tally.worker_seconds += time.thread_time() - began
        return UnitReport(
            unit.unit_id, attempt.number, "committed" if won else "already", rows=len(rows), reported=told
        )

    def _embeddings(self, scores: pa.Table) -> pa.Table:
        values = self._rng.standard_normal((len(scores), WIDTH), dtype=np.float32)
        starts = pa.array(np.arange(0, values.size + 1, WIDTH, dtype=np.int32), type=pa.int32())
        known = make_table("embeddings", scores.select(["unit_id", "cell_id", "image_id", "model"]).to_pylist())
        at = known.schema.get_field_index("embedding")
        vectors = pa.ListArray.from_arrays(starts, pa.array(values.ravel(), type=pa.float32()))
        return known.set_column(at, known.schema.field(at), vectors)

    def _score(self, row: PlannedRow) -> dict[str, Any]:
        gone = row.control == "donor" or {4, 5} <= set(row.intervention.sites)
        score = (0.0 if gone and row.control != "identity" else 0.3) + self._rng.normal(0, 0.01)
        return {
            **cell_columns(row, self._settings.sweep_id, self._info), "steps": 8, "clip_score": score,
            "clip_score_donor": 0.1, "clip_score_content": 0.4,
            "clip_score_unrelated": 0.05 if row.control == "clean" else None, "status": "ok", "attempt": 1,
            "schema_version": SCHEMA_VERSION,
        }  # fmt: skip


class CountedBlobs(LocalBlobs):
    """A local folder that counts which files of units are read, by whom."""

    tally = Tally()

    def read(self, path: str) -> bytes:
        """Reads a file."""
        if path.startswith(layout.UNITS):
            where = "loop" if threading.current_thread() is threading.main_thread() else "beside"
            self.tally.reads[where] += 1
        return super().read(path)


@dataclass
class Cost:
    """What a call cost: CPU seconds of this process, and seconds."""

    cpu: float
    wall: float


def timed(call: Callable[[], T]) -> tuple[T, Cost]:
    """Returns what a call returns, and what it cost."""
    cpu, wall = time.process_time(), time.perf_counter()
    found = call()
    return found, Cost(time.process_time() - cpu, time.perf_counter() - wall)


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


def run(spec: SweepSpec, root: str, tally: Tally) -> RunResult:
    """Runs what remains of the sweep, in this process."""
    store = open_store(root) if "://" in root else Store(CountedBlobs(root))
    return run_sweep(
        spec, root, lambda settings: InlineBackend(lambda model: NoOpWorker(settings, model, tally), threads=1),
        on_progress=lambda _: None, on_localized=lambda _: None, stop=StopSwitch(), store=store, resolved=resolved(),
    )  # fmt: skip


def measured(spec: SweepSpec, root: str) -> dict[str, Any]:
    """Returns what a sweep of no-op cells costs from its plan to its status."""
    planning = planned(spec)
    tally = CountedBlobs.tally
    with memory() as samples:
        result, cost = timed(lambda: run(spec, root, tally))
    cells, units = result.summary.rows, result.summary.committed
    at = [samples[(len(samples) - 1) * part // 4] for part in (1, 2, 4)]
    again, resume = timed(lambda: run(spec, root, tally))
    store = open_store(root)
    status, looked = timed(lambda: survey(store))
    return {
        "plan": planning, "cells": cells, "units": units,
        "run_cpu_seconds": cost.cpu, "run_seconds": cost.wall, "cells_per_cpu_second": cells / cost.cpu,
        "cpu_microseconds_per_cell": 1e6 * cost.cpu / cells, "worker_cpu_seconds": tally.worker_seconds,
        "driver_cpu_microseconds_per_cell": 1e6 * (cost.cpu - tally.worker_seconds) / cells,
        "memory_mb_at_a_quarter_half_end": at,
        "peak_memory_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3,
        "unit_files_read_per_unit": {where: count / units for where, count in tally.reads.items()},
        "resume_cpu_seconds": resume.cpu, "resume_seconds": resume.wall, "resumed_units": again.summary.committed,
        "status_cpu_seconds": looked.cpu, "status_seconds": looked.wall,
        "status_units": [status.units_done, status.units], "localized": [f.outcome for f in result.localizations],
        **_read(store, root),
    }  # fmt: skip


def planned(spec: SweepSpec) -> dict[str, Any]:
    """Returns what the plan alone costs, its file included."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    units, cost = timed(lambda: plan(spec, resolved()))
    held = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    data, written = timed(lambda: encode_table(units.to_table()))
    total = counted(units)
    return {
        "cells": total.cells, "units": total.units, "cpu_seconds": cost.cpu, "seconds": cost.wall,
        "file_cpu_seconds": written.cpu, "file_bytes_per_unit": len(data) / total.units,
        "bytes_per_unit_in_memory": units.units.nbytes / total.units,
        "memory_mb_on_top": (held - before) / 1e3,
        "memory_mb_on_top_with_file": (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1e3,
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
    parser.add_argument("--cells", type=float, default=1e6)
    parser.add_argument("--results", help="folder or s3:// address that is empty; default: a temporary folder")
    parser.add_argument("--plan-only", action="store_true")
    arguments = parser.parse_args()
    spec = sweep(int(arguments.cells))
    if arguments.plan_only:
        print(json.dumps(planned(spec), indent=1))
        return
    root = arguments.results or tempfile.mkdtemp(prefix="scale-")
    try:
        print(json.dumps(measured(spec, root), indent=1))
    finally:
        if not arguments.results:
            shutil.rmtree(Path(root), ignore_errors=True)


if __name__ == "__main__":
    main()
