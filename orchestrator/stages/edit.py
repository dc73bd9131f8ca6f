"""Edits: fitted where something was localized, chosen on one split, measured beside their baselines on another.

A pure derivation from what is committed, attribute by attribute and without a barrier: fit candidates -> evaluate them
on ``select`` -> choose one of each editor -> fit baselines -> evaluate all on ``report``.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import pyarrow as pa

from loco_core.attributes import bundled
from loco_core.errors import SpecError
from loco_core.localizers import Localization
from loco_core.types import Attribute
from orchestrator.edit_plan import (
    EvaluateUnit,
    FitUnit,
    PlannedEdit,
    baselines,
    candidates,
    evaluate_units,
    fit_unit,
    probes,
    splits,
)
from orchestrator.edit_summary import EditSummary, summarize
from orchestrator.resolve import Resolved
from orchestrator.scheduler.protocol import Settled, Unit
from orchestrator.spec import SweepSpec
from orchestrator.store import Store
from orchestrator.store.schemas import TABLES
from orchestrator.worker import to_unit

logger = logging.getLogger(__name__)
Block = tuple[str, str]  # model, attribute
EditUnit = FitUnit | EvaluateUnit


@dataclass(frozen=True)
class Place:
    """Where an attribute's edits are made, and what says so."""

    sites: tuple[int, ...]
    localization: str


class EditStage:
    """Derives the units of edits, and writes ``edits`` when an attribute is through."""

    def __init__(self, store: Store, spec: SweepSpec, resolved: Resolved, first_order: int) -> None:
        self._store, self._spec, self._resolved = store, spec, resolved
        self._order = first_order
        self._committed = set(store.committed())
        self._places: dict[Block, Place] = {}
        self._waiting: dict[Block, set[str]] = {}
        self._edits: dict[Block, pa.Table] = {}

    def localized(self, found: Localization) -> list[Unit]:
        """Returns the units that follow from a localization; none unless it is ``localized``."""
        if self._spec.edit is None or found.window is None:
            return []
        try:
            splits(self._attribute(found.attribute), self._spec.prompts)
        except SpecError as error:
            logger.warning("%s %s is not edited: %s", found.model, found.attribute, error)
            return []
        where = f"{found.localizer}: sites {found.window.start}-{found.window.start + found.window.size - 1}"
        block = (found.model, found.attribute)
        self._places[block] = Place(found.window.sites, where)
        return self._advance(block)

    def settled(self, items: Iterable[Settled]) -> list[Unit]:
        """Takes note of units that are done, and returns those that follow."""
        more: list[Unit] = []
        for item in items:
            unit: EditUnit = item.unit.payload
            block = (unit.model, unit.attribute.key)
            self._waiting[block].discard(unit.unit_id)
            if item.report.outcome != "failed":
                self._committed.add(unit.unit_id)
            if not self._waiting[block]:
                more += self._advance(block)
        return more

    def _advance(self, block: Block) -> list[Unit]:
        """Plans step after step, as far as committed units carry."""
        spec, model = self._spec, self._resolved.model(block[0])
        attribute = self._attribute(block[1])
        place = self._places[block]
        first = candidates(spec, model, attribute, place.sites, "localized")
        fit = fit_unit(spec, model, attribute, first, place.localization, self._order)
        if missing := self._missing(block, [fit]):
            return missing
        fits = self._store.read_units([fit.unit_id], "fits")
        if not fits.num_rows:
            logger.warning("%s %s is not edited: its edits could not be fitted; see failures", *block)
            return []
        beside = self._neighbours(attribute, fits)
        select = evaluate_units(
            spec, model, attribute, first, place.localization, probes(spec, attribute, beside, "select"), "select",
            self._order,
        )  # fmt: skip
        if missing := self._missing(block, select):
            return missing
        rows = self._store.read_units([unit.unit_id for unit in select], "evaluations").to_pylist()
        measured = summarize(fits.to_pylist(), rows, "select")
        chosen = choose(first, measured, spec.edit.max_neighbour_loss if spec.edit else 0.0)
        others = baselines(spec, model, attribute, [edit for edit in first if edit.edit_id in chosen])
        more = fit_unit(spec, model, attribute, others, place.localization, self._order)
        if missing := self._missing(block, [more]):
            return missing
        # All strengths at the localized sites too: the curve beside that of all sites.
        report = evaluate_units(
            spec, model, attribute, [*first, *others], place.localization, probes(spec, attribute, beside, "report"),
            "report", self._order,
        )  # fmt: skip
        if missing := self._missing(block, report):
            return missing
        self._finish(block, [fit, more], chosen)
        return []

    def _attribute(self, key: str) -> Attribute:
        return next(item for item in self._resolved.attributes if item.key == key)

    def _missing(self, block: Block, units: Sequence[EditUnit]) -> list[Unit]:
        missing = [unit for unit in units if unit.unit_id not in self._committed]
        self._waiting[block] = {unit.unit_id for unit in missing}
        self._order += len(missing)
        return [to_unit(unit, self._resolved) for unit in missing]

    def _neighbours(self, attribute: Attribute, fits: pa.Table) -> list[Attribute]:
        known: Mapping[str, Attribute] = {**bundled(), **{item.key: item for item in self._resolved.attributes}}
        names: list[str] = fits["neighbours"][0].as_py() or []
        return [known[name] for name in names[: self._spec.evaluate.neighbours]]

    def _finish(self, block: Block, units: Sequence[FitUnit], chosen: set[str]) -> None:
        table = self._store.read_units([unit.unit_id for unit in units], "fits")
        flags = [
            scope == "localized" and edit in chosen
            for scope, edit in zip(table["scope"].to_pylist(), table["edit_id"].to_pylist(), strict=True)
        ]
        at = table.schema.get_field_index("chosen")
        self._edits[block] = table.set_column(at, table.schema.field(at), pa.array(flags, pa.bool_()))
        rows = pa.concat_tables([TABLES["edits"].empty_table(), *(self._edits[b] for b in sorted(self._edits))])
        self._store.write_derived("edits", rows)


def choose(edits: Sequence[PlannedEdit], measured: Sequence[EditSummary], max_neighbour_loss: float) -> set[str]:
    """Chooses one edit of each editor: the most effective of those that spare the neighbours, else the most sparing.

    Args:
        edits: candidates, in the order of the spec.
        measured: what they did on ``select``.
        max_neighbour_loss: share of neighbours' pictures that the edit may spoil.

    Returns:
        ids of the chosen edits.
    """
    by_id, chosen = {item.edit_id: item for item in measured}, set()
    for editor in dict.fromkeys(edit.settings.editor for edit in edits):
        mine = [by_id[edit.edit_id] for edit in edits if edit.settings.editor == editor and edit.edit_id in by_id]
        sparing = [item for item in mine if _loss(item) <= max_neighbour_loss]
        if sparing:
            chosen.add(max(sparing, key=lambda item: (item.flipped.value, -_loss(item))).edit_id)
        elif mine:
            chosen.add(min(mine, key=_loss).edit_id)
    return chosen


def _loss(item: EditSummary) -> float:
    return 1 - item.neighbours_kept.value if item.neighbours_kept.of else 0.0
