"""What metrics say of the pictures of a unit: values of pairs of pictures, and features of those that make sets."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from orchestrator.scheduler.protocol import Attempt, Unit
from orchestrator.stages.context import WorkerContext
from orchestrator.stages.edit.plan import PlannedEdit, Probe
from orchestrator.store import SCHEMA_VERSION

if TYPE_CHECKING:
    import torch

SETS = "unrelated"
"""Role of the prompts whose pictures are compared as sets: an edit should leave their distribution alone."""
Rows = list[dict[str, Any]]
Pictures = Sequence["torch.Tensor | None"]
"""One picture per probe; None where it is none."""


def picture_rows(
    context: WorkerContext, unit: Unit, edit: PlannedEdit, before: Pictures, after: Pictures, attempt: Attempt
) -> Rows:
    """Returns rows of ``picture_metrics``: one per picture metric and probe that is a picture with and without an edit.

    Args:
        context: the worker.
        unit: an evaluation.
        edit: the edit.
        before: pictures of the unit's probes without it.
        after: those with it.
        attempt: attempt at the unit.
    """
    import torch

    rows: Rows = []
    triples = [
        (probe, old, new)
        for probe, old, new in zip(unit.payload.probes, before, after, strict=True)
        if old is not None and new is not None
    ]
    if not triples or not unit.payload.probes[0].metrics:
        return rows
    probes, olds, news = zip(*triples, strict=True)
    for metric, values in context.metrics.compared(probes[0].metrics, torch.stack(olds), torch.stack(news)):
        rows += [
            {
                **_common(context, unit, probe, attempt), "edit_id": edit.edit_id, "editor": edit.settings.editor,
                "scope": edit.scope, "metric": metric.id, "weights": metric.weights or None,
                "weights_hash": metric.digest or None, "value": value,
            }
            for probe, value in zip(probes, values, strict=True)
        ]  # fmt: skip
    return rows


def feature_rows(
    context: WorkerContext, unit: Unit, edit: PlannedEdit | None, pictures: Pictures, attempt: Attempt
) -> Rows:
    """Returns rows of ``features``: one per metric of sets and picture of an unrelated prompt.

    Args:
        context: the worker.
        unit: an evaluation.
        edit: the edit that the pictures were drawn with; None without one.
        pictures: pictures of the unit's probes.
        attempt: attempt at the unit.
    """
    import torch

    rows: Rows = []
    pairs = [
        (probe, picture)
        for probe, picture in zip(unit.payload.probes, pictures, strict=True)
        if picture is not None and probe.role == SETS
    ]
    if not pairs or not unit.payload.probes[0].metrics:
        return rows
    probes, drawn = zip(*pairs, strict=True)
    for metric, features in context.metrics.embedded(probes[0].metrics, torch.stack(drawn)):
        rows += [
            {
                **_common(context, unit, probe, attempt), "edit_id": edit.edit_id if edit else None,
                "scope": edit.scope if edit else None, "metric": metric.id, "weights": metric.weights or None,
                "weights_hash": metric.digest or None, "features": each,
            }
            for probe, each in zip(probes, features, strict=True)
        ]  # fmt: skip
    return rows


def _common(context: WorkerContext, unit: Unit, probe: Probe, attempt: Attempt) -> dict[str, Any]:
    return {
        "sweep_id": context.sweep_id, "unit_id": unit.unit_id, "model": unit.model,
        "attribute": unit.payload.attribute.key, "prompt_role": probe.role, "prompt": probe.record.prompt,
        "seed": probe.seed, "attempt": attempt.number, "schema_version": SCHEMA_VERSION,
    }  # fmt: skip
