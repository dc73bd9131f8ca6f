"""What a worker does with a probe: draw batches of growing size, and say which is the cheapest, and how cheap."""

from __future__ import annotations

from loco_core.diffusion.batches import probe_batches
from orchestrator.scheduler.protocol import Attempt, Unit
from orchestrator.stages.context import Result, WorkerContext
from orchestrator.stages.probe.plan import BatchMeasurement
from orchestrator.store import SCHEMA_VERSION, make_table


def work(context: WorkerContext, unit: Unit, attempt: Attempt) -> Result:
    """Measures a model; gives one row of ``probes`` per batch size."""
    planned: BatchMeasurement = unit.payload
    found = probe_batches(context.model, planned.prompt, planned.donor, context.generation)
    common = {
        "sweep_id": context.sweep_id, "unit_id": unit.unit_id, "model": unit.model,
        "model_revision": context.info.weights_id, "device": context.device, "torch_version": context.torch_version,
        "attempt": attempt.number, "schema_version": SCHEMA_VERSION,
    }  # fmt: skip
    rows = [
        {
            **common, "batch_size": size, "seconds_per_image": seconds, "chosen": size == found.batch_size,
            "whole_seconds_per_image": found.image_seconds if size == found.batch_size else None,
        }
        for size, seconds in found.seconds.items()
    ]  # fmt: skip
    return Result({"probes": make_table("probes", rows)})
