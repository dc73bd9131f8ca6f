"""``batch_size: auto``: size of batches and seconds per image, measured once per model, then frozen in the results."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from loco_core.tables import rows_where
from orchestrator.resolve.resolved import Resolved, ResolvedModel
from orchestrator.scheduler.protocol import Unit
from orchestrator.spec import SweepSpec
from orchestrator.stages.base import make_unit
from orchestrator.store import MissingFileError, Store

LARGEST = 64
"""Rows of the largest batch that is tried."""
STEPS = 4
"""Denoising steps of a picture that is drawn to measure a batch."""
PREFIX = "probe-"
"""What the ids of probes begin with: no cell is made by one."""


@dataclass(frozen=True)
class BatchMeasurement:
    """What a probe draws.

    Attributes:
        prompt: the prompt.
        donor: the donor prompt, which swapped sites read.
    """

    prompt: str
    donor: str


def with_batch_sizes(store: Store, spec: SweepSpec, resolved: Resolved) -> Resolved:
    """Returns names with what was measured of them, where the sweep leaves the size of batches to a probe."""
    if spec.generation.batch_size != "auto":
        return resolved
    models = tuple(model.model_copy(update=recorded(store, model)) for model in resolved.models)
    return resolved.model_copy(update={"models": models})


def recorded(store: Store, model: ResolvedModel) -> dict[str, Any]:
    """Returns what was measured of a model, by the model's fields; nothing if it was not."""
    try:
        (row,) = rows_where(store.read_unit(_unit_id(model))["probes"], chosen=True).to_pylist()
    except MissingFileError:
        return {}
    return {"probed_batch": row["batch_size"], "probed_seconds": row["whole_seconds_per_image"]}


def probes(spec: SweepSpec, resolved: Resolved) -> list[Unit]:
    """Returns a unit per model whose batch size is to be measured and was not yet; payloads are `BatchMeasurement`."""
    if spec.generation.batch_size != "auto":
        return []
    record = resolved.attributes[0].records[0]
    lacking = [model for model in resolved.models if model.probed_batch is None]
    return [
        make_unit(
            "probe", _unit_id(model), model, order,
            # Two of every size, each size as much as all before it.
            4 * LARGEST * model.seconds_per_image * STEPS / 50, BatchMeasurement(record.prompt, record.donor),
        )
        for order, model in enumerate(lacking)
    ]  # fmt: skip


def without_probes(unit_ids: Sequence[str] | frozenset[str]) -> frozenset[str]:
    """Returns the ids of units that make something of the sweep."""
    return frozenset(unit_id for unit_id in unit_ids if not unit_id.startswith(PREFIX))


def _unit_id(model: ResolvedModel) -> str:
    """Names a probe by all that its answer depends on, the device aside: the first one's answer stands."""
    what = f"{model.id}\n{model.weights_id}\n{model.dtype}\n{model.engine!r}"
    return PREFIX + hashlib.sha256(what.encode()).hexdigest()
