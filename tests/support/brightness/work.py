"""Draws, and takes the mean of all pixels."""

from __future__ import annotations

import time

import pyarrow as pa
from brightness import TABLES
from brightness.plan import Pictures

from loco_core.diffusion.generate import generate
from loco_core.types import Row
from orchestrator.scheduler.protocol import Attempt, Unit
from orchestrator.stages.context import Result, WorkerContext


def work(context: WorkerContext, unit: Unit, attempt: Attempt) -> Result:
    """Measures the pictures of a unit."""
    planned: Pictures = unit.payload
    time.sleep(planned.pause)
    rows = [Row(planned.prompt, planned.prompt, seed) for seed in planned.seeds]
    pictures = [picture for part in generate(context.model, rows, context.generation, 4) for picture in part.images]
    table = [
        {
            "unit_id": unit.unit_id, "model": unit.model, "attribute": planned.attribute, "prompt": planned.prompt,
            "seed": seed, "mean": float(picture.mean()),
        }
        for seed, picture in zip(planned.seeds, pictures, strict=True)
    ]  # fmt: skip
    return Result({"brightness": pa.Table.from_pylist(table, TABLES["brightness"])}, rows=len(table))
