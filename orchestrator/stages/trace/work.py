"""What a worker does with a trace: draw, observe or score."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import numpy as np

from loco_core import plugins
from loco_core.errors import SpecError
from loco_core.scoring.base import margin_of
from loco_core.tracing.base import Trace, tracer_id, tracer_info
from loco_core.types import PromptRecord
from orchestrator.scheduler.protocol import Attempt, Unit
from orchestrator.stages.context import Result, WorkerContext
from orchestrator.stages.sweep.variants import prompt_id
from orchestrator.stages.trace.plan import Tracing
from orchestrator.store import SCHEMA_VERSION, make_table


def work(context: WorkerContext, unit: Unit, attempt: Attempt) -> Result:
    """Traces the prompts and seeds of a unit; gives one row of ``traces`` per layer."""
    began = time.monotonic()
    planned: Tracing = unit.payload
    if tracer_id(planned.tracer) != planned.method:
        raise SpecError(
            f"the tracer {planned.tracer} is not the one that this unit was planned with; leave its file alone while "
            "traces are made, and start the command again"
        )
    found = list(_traced(context, planned))
    common = {
        "sweep_id": context.sweep_id, "unit_id": unit.unit_id, "model": unit.model, "attribute": planned.attribute.key,
        "attribute_kind": planned.attribute.kind, "mode": planned.attribute.mode, "method": planned.method,
        "batch_size": planned.batch_size, "device": context.device, "torch_version": context.torch_version,
        "attempt": attempt.number, "schema_version": SCHEMA_VERSION,
        "seconds": (time.monotonic() - began) / max(1, len(found)),
    }  # fmt: skip
    rows = [{**common, **row} for row in found]
    invalid = sum(row["status"] == "invalid" for row in rows)
    # Pictures, not rows: without scores of pictures all rows of a prompt and seed may come from one.
    drawn = len(rows) if tracer_info(planned.tracer).scores else len(planned.items)
    traces = make_table("traces", rows)
    return Result({"traces": traces}, rows=drawn - invalid, invalid=invalid, reported=traces)


def _traced(context: WorkerContext, planned: Tracing) -> Iterator[dict[str, Any]]:
    scores, trace = tracer_info(planned.tracer).scores, plugins.function("tracers", planned.tracer, "trace")
    found: Trace
    for found in trace(context.model, planned.items, context.generation, planned.batch_size):
        record, seed = planned.items[found.item]
        value, layer = found.value, found.layer
        row = {
            **_about(record, seed), "control": found.control, "component": layer and layer.component,
            "layer": layer and layer.index, "layer_name": layer and layer.name,
        }  # fmt: skip
        if scores:
            row["scorer"], value = context.scorer_info.name, _margin(context, found, record)
        yield {**row, **_measured(float("nan") if value is None else value)}


def _margin(context: WorkerContext, found: Trace, record: PromptRecord) -> float | None:
    """Returns a picture's margin, as a sweep's; None of a picture that is none."""
    if found.picture is None or not context.is_valid(found.picture):
        return None
    embeddings = context.scorer.embed_images(found.picture[None])
    here, there = margin_of(context.scorer.score(embeddings, [record.score_text, *record.against])[0])
    return here - there


def _about(record: PromptRecord, seed: int) -> dict[str, Any]:
    return {
        "prompt_id": prompt_id(record), "template_id": record.template_id, "prompt": record.prompt,
        "donor": record.donor, "seed": seed,
    }  # fmt: skip


def _measured(value: float) -> dict[str, Any]:
    valid = bool(np.isfinite(value))
    return {"value": value if valid else None, "status": "ok" if valid else "invalid"}
