"""Edits that are there, measured on more: a pure derivation from ``edits`` and from what is measured already."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from orchestrator.resolve.resolved import Resolved
from orchestrator.scheduler.protocol import Unit
from orchestrator.spec import SweepSpec
from orchestrator.stages.edit.candidates import restored, restored_in_turn, restored_together
from orchestrator.stages.edit.evaluation_index import EvaluationIndex
from orchestrator.stages.edit.places import known_attributes
from orchestrator.stages.edit.plan import PlannedEdit, evaluate_units, probes, watched
from orchestrator.store import Store
from orchestrator.store.keyed import key_of

_Block = tuple[str, str, tuple[str, ...]]
"""Model, attribute, and the attributes of an edit of several."""


@dataclass(frozen=True)
class MissingEvaluations:
    """What is to be measured.

    Attributes:
        units: the work.
        lost: edits that cannot be fitted again as they were.
        other_texts: edits that were chosen by a margin against other texts than the sweep's are now.
    """

    units: tuple[Unit, ...]
    lost: int
    other_texts: int = 0


def as_chosen(rows: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Returns those rows of ``edits`` that are chosen, and the baselines that have the settings of one at its place.

    Of a sequence it is every step: each is of an edit that was chosen, and is held against the one before it.
    """
    chosen = {(key_of("edits", row), row["settings"]) for row in rows if row["chosen"]}
    return [row for row in rows if row["step"] is not None or (key_of("edits", row), row["settings"]) in chosen]


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
    wanted = [row for row in rows if row["scope"] != "window" or spec.evaluate.windows]
    several = _of_several(store, wanted)
    found: dict[_Block, dict[tuple[str, str], PlannedEdit]] = {}
    nearest: dict[_Block, list[str]] = {}
    by_margin: set[tuple[_Block, str]] = set()
    lost, other_texts, units = 0, 0, list[Unit]()
    for row in wanted:
        edit: PlannedEdit | None = None
        members = tuple(row["attributes"] or ())
        block = (row["model"], row["attribute"], members)
        # The sweep may name the model or the attribute no more.
        if any(model.id == block[0] for model in resolved.models) and block[1] in known:
            model = resolved.model(block[0])
            if row["step"] is not None:
                edit = restored_in_turn(spec, model, known, row, several[row["model"], row["localization"]])
            elif members:
                rows_of = several[row["model"], row["localization"]]
                same = [each for each in rows_of if each["edit_id"] == row["edit_id"]]
                edit = restored_together(spec, model, known, same)
            else:
                edit = restored(spec, model, known[block[1]], row)
        if edit is None:
            lost += 1
            continue
        nearest.setdefault(block, row["neighbours"] or [])
        # All sites, say, are a baseline of several places: an edit in its scope is measured once.
        found.setdefault(block, {})[edit.edit_id, edit.scope] = edit
        if row["chosen"] and row["chosen_by"] == resolved.scorer.name:
            by_margin.add((block, edit.edit_id))
    for block, edits in found.items():
        (name, key, members), listed = block, list(edits.values())
        beside = watched(spec, known, [other for other in nearest[block] if other not in members])
        chosen_on = probes(spec, known[key], beside, "select", resolved.judge_id, edited=members)
        other_texts += sum(
            measured.other_texts(name, key, edit, chosen_on) for edit in listed if (block, edit.edit_id) in by_margin
        )
        drawn = probes(spec, known[key], beside, "report", resolved.judge_id, resolved.metric_ids, members)
        units += evaluate_units(
            spec, resolved.model(name), known[key], listed, "", drawn, "report", len(units),
            measured.pairs(name, key, listed, drawn),
        )  # fmt: skip
    left = tuple(unit for unit in units if unit.unit_id not in committed)
    return MissingEvaluations(left, lost, other_texts)


def _of_several(store: Store, rows: Sequence[Mapping[str, Any]]) -> dict[tuple[str, str], list[Mapping[str, Any]]]:
    """Returns all rows of edits of several attributes, by model and group: a command may be about one attribute."""
    found: dict[tuple[str, str], list[Mapping[str, Any]]] = {
        (row["model"], row["localization"]): [] for row in rows if row["attributes"]
    }
    for row in store.read("edits").to_pylist() if found else ():
        if (key := (row["model"], row["localization"])) in found:
            found[key].append(row)
    return found
