"""Edits that are there, measured on more: a pure derivation from ``edits`` and from what is measured already."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from orchestrator.resolve.resolved import Resolved
from orchestrator.scheduler.protocol import Unit
from orchestrator.spec import SweepSpec
from orchestrator.stages.edit.candidates import restored
from orchestrator.stages.edit.evaluation_index import EvaluationIndex
from orchestrator.stages.edit.plan import PlannedEdit, evaluate_units, probes, watched
from orchestrator.stages.edit.stage import known_attributes
from orchestrator.store import Store
from orchestrator.store.keyed import key_of


@dataclass(frozen=True)
class MissingEvaluations:
    """What is to be measured.

    Attributes:
        units: the work.
        lost: edits that cannot be fitted again as they were.
    """

    units: tuple[Unit, ...]
    lost: int


def as_chosen(rows: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Returns those rows of ``edits`` that are chosen, and the baselines that have the settings of one at its place."""
    chosen = {(key_of("edits", row), row["settings"]) for row in rows if row["chosen"]}
    return [row for row in rows if (key_of("edits", row), row["settings"]) in chosen]


def missing_evaluations(
    store: Store, spec: SweepSpec, resolved: Resolved, rows: Iterable[Mapping[str, Any]]
) -> MissingEvaluations:
    """Plans what edits lack on the ``report`` split; nothing is chosen anew.

    Args:
        store: the results.
        spec: the sweep, with the ``evaluate`` block that is wanted.
        resolved: the sweep with its names looked up.
        rows: of ``edits``.
    """
    measured, committed, known = EvaluationIndex(store), store.committed(), known_attributes(resolved)
    models = {model.id for model in resolved.models}
    found: dict[tuple[str, str], dict[tuple[str, str], PlannedEdit]] = {}
    nearest: dict[tuple[str, str], list[str]] = {}
    lost, units = 0, list[Unit]()
    for row in rows:
        if row["scope"] == "window" and not spec.evaluate.windows:
            continue
        block = (row["model"], row["attribute"])
        if block[0] not in models or block[1] not in known:
            # The sweep names it no more.
            lost += 1
            continue
        nearest.setdefault(block, row["neighbours"] or [])
        edit = restored(spec, resolved.model(block[0]), known[block[1]], row)
        if edit is None:
            lost += 1
        else:
            # All sites, say, are a baseline of several places: an edit in its scope is measured once.
            found.setdefault(block, {})[edit.edit_id, edit.scope] = edit
    for block, edits in found.items():
        attribute, listed = known[block[1]], list(edits.values())
        beside = watched(spec, known, nearest[block])
        drawn = probes(spec, attribute, beside, "report", resolved.judge_id, resolved.metric_ids)
        units += evaluate_units(
            spec, resolved.model(block[0]), attribute, listed, "", drawn, "report", len(units),
            measured.pairs(*block, listed, drawn),
        )  # fmt: skip
    return MissingEvaluations(tuple(unit for unit in units if unit.unit_id not in committed), lost)
