"""What a worker does with a trace: draw, observe or score, commit."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator
from typing import Any

import numpy as np

from loco_core.tracing.attention import contributions
from loco_core.tracing.causal import trace
from loco_core.types import PromptRecord, Row
from orchestrator.edit_work import Bench
from orchestrator.plan import prompt_id
from orchestrator.scheduler.protocol import UnitReport
from orchestrator.store import SCHEMA_VERSION, make_table
from orchestrator.trace_plan import TraceUnit
from orchestrator.worker_images import is_valid


def run_trace(bench: Bench, unit: TraceUnit, attempt: int, device: str) -> UnitReport:
    """Traces the prompts and seeds of a unit, and commits a row a layer."""
    import torch

    began = time.monotonic()
    found = list(_contributed(bench, unit) if unit.method == "attention_contribution" else _traced(bench, unit))
    common = {
        "sweep_id": bench.sweep_id, "unit_id": unit.unit_id, "model": unit.model, "attribute": unit.attribute.key,
        "attribute_kind": unit.attribute.kind, "mode": unit.attribute.mode, "method": unit.method,
        "batch_size": unit.batch_size, "device": device, "torch_version": torch.__version__, "attempt": attempt,
        "schema_version": SCHEMA_VERSION, "seconds": (time.monotonic() - began) / len(found),
    }  # fmt: skip
    rows = [{**common, **row} for row in found]
    outcome = bench.store.commit_unit(unit.unit_id, {"traces": make_table("traces", rows)}, uuid.uuid4().hex)
    # Pictures, not rows: the contributions of all sites come from one.
    invalid = sum(row["status"] == "invalid" for row in rows)
    drawn = len(unit.items) if unit.method == "attention_contribution" else len(rows)
    return UnitReport(
        unit.unit_id, attempt, "committed" if outcome == "won" else "already", rows=drawn - invalid,
        invalid=invalid, seconds=time.monotonic() - began,
    )  # fmt: skip


def _contributed(bench: Bench, unit: TraceUnit) -> Iterator[dict[str, Any]]:
    rows = [Row(record.prompt, record.donor, seed) for record, seed in unit.items]
    values = contributions(bench.model, rows, bench.generation, unit.batch_size).tolist()
    for (record, seed), sites in zip(unit.items, values, strict=True):
        for site, value in zip(bench.model.sites, sites, strict=True):
            yield {
                **_about(record, seed), "control": "contribution", "component": "denoiser", "layer": site.index,
                "layer_name": site.name, **_measured(value),
            }  # fmt: skip


def _traced(bench: Bench, unit: TraceUnit) -> Iterator[dict[str, Any]]:
    for record, seed in unit.items:
        for found in trace(bench.model, record.prompt, record.donor, seed, bench.generation, unit.batch_size):
            value = float("nan")
            if is_valid(found.picture, bench.generation, bench.model.enlargement):
                texts = [record.score_text, record.donor_text]
                here, there = bench.scorer.score(bench.scorer.embed_images(found.picture[None]), texts)[0]
                value = float(here - there)
            layer = found.layer
            yield {
                **_about(record, seed), "control": found.control, "component": layer and layer.component,
                "layer": layer and layer.index, "layer_name": layer and layer.name, "scorer": bench.scorer_name,
                **_measured(value),
            }  # fmt: skip


def _about(record: PromptRecord, seed: int) -> dict[str, Any]:
    return {
        "prompt_id": prompt_id(record), "template_id": record.template_id, "prompt": record.prompt,
        "donor": record.donor, "seed": seed,
    }  # fmt: skip


def _measured(value: float) -> dict[str, Any]:
    valid = bool(np.isfinite(value))
    return {"value": value if valid else None, "status": "ok" if valid else "invalid"}
