"""The sweep: which units remain, and what follows from those that are committed."""

from __future__ import annotations

import hashlib
import uuid
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import fields
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from loco_core.errors import LocalizationError, LocoError
from loco_core.localizers import Grid, Localization, Request, rule
from loco_core.tracing import reads
from loco_core.types import Window
from orchestrator.plan import CELL_KEY, Block, PlannedRow, PlannedUnit, cell_key, from_table, grid, plan, to_table
from orchestrator.resolve import Resolved
from orchestrator.scheduler.protocol import Settled, Unit, UnitReport
from orchestrator.spec import SweepSpec
from orchestrator.stages.committed import published_units, unit_rows
from orchestrator.stages.localize import Tables, localize, unless_incomplete, unscored
from orchestrator.store import SCHEMA_VERSION, Store, layout, make_table
from orchestrator.worker import cell_columns, to_unit

# What a planned row is made of where its cell, which is committed, does not say it.
_BLANK = {
    **{field.name: None for field in fields(PlannedRow)}, "unit_order": 0, "row": 0, "emit": True,
    "expected_seconds": 0.0, "batch_size": 0, "unrelated_texts": (),
}  # fmt: skip


def missing_units(
    spec: SweepSpec,
    resolved: Resolved,
    known: Sequence[PlannedUnit],
    *,
    requests: Mapping[Block, Sequence[Request]] | None = None,
) -> list[PlannedUnit]:
    """Plans what no plan file holds yet; writes nothing.

    Args:
        spec: the sweep.
        resolved: the sweep with its names looked up.
        known: units of all plan files.
        requests: what a localizer asks for, by model and attribute; None is what it begins with, which for most is the
            whole grid.

    Returns:
        the new units.
    """
    wanted = beginnings(spec, resolved) if requests is None else requests
    return plan(spec, resolved, _planned(known), requests=wanted, first_order=len(known))


def beginnings(spec: SweepSpec, resolved: Resolved) -> dict[Block, Sequence[Request]] | None:
    """Returns what the sweep's localizers begin with, by model and attribute; None where that is the whole grid."""
    begins = [rule(name).begin for name in spec.localize.localizers if reads(name) is None]
    found: dict[Block, list[Request]] = defaultdict(list)
    for begin in begins:
        if begin is None:
            return None
        for model in resolved.models:
            for attribute in resolved.attributes:
                found[model.id, attribute.key] += begin(grid(spec, attribute, model.n_sites), spec.localize)
    return dict(found) if begins else None


def units_again(
    spec: SweepSpec, resolved: Resolved, known: Sequence[PlannedUnit], failed: Collection[tuple[Any, ...]], round_: int
) -> list[PlannedUnit]:
    """Plans cells that failed once more, whoever asked for them.

    Args:
        spec: the sweep.
        resolved: the sweep with its names looked up.
        known: units of all plan files.
        failed: keys of the cells.
        round_: which retry this is, from 1.
    """
    requests: dict[Block, list[Request]] = defaultdict(list)
    for cell in sorted(failed, key=str):
        model, attribute, control, start, size, _ = cell
        if control in ("window", "complement"):
            requests[model, attribute].append(Request(control, Window(start, size)))
    found: list[PlannedUnit] = []
    # All of the grid, and what may have been asked for outside it.
    for wanted in (None, requests):
        planned = (_planned(known) - set(failed)) | _planned(found)
        order = len(known) + len(found)
        found += plan(spec, resolved, planned, requests=wanted, only=failed, first_order=order, round_=round_)
    return found


def _planned(units: Iterable[PlannedUnit]) -> set[tuple[Any, ...]]:
    return {row.key for unit in units for row in unit.rows if row.emit}


def add_plan(store: Store, new: Sequence[PlannedUnit]) -> None:
    """Writes units as the next plan file; a plan file is never changed.

    Raises:
        LocoError: another driver wrote one at the same time.
    """
    if new:
        number = store.next_plan()
        if store.add_plan(number, to_table(new), uuid.uuid4().hex) == "lost":
            raise LocoError(f"{store.root}: another driver wrote plan {number} at the same time; run the command again")
        store.record_plans(number + 1)


def drop_plans(store: Store) -> None:
    """Sets the plan files of a sweep aside of which nothing was made."""
    for path in layout.numbers(store.blobs.list(layout.PLANS), layout.plan).values():
        store.quarantine(path)


def planned_units(store: Store) -> list[PlannedUnit]:
    """Returns the units of all plan files, in order, and what is committed of plan files that were set aside."""
    units = [unit for _, table in sorted(store.plans().items()) for unit in from_table(table)]
    return [*units, *_remembered(store, {unit.unit_id for unit in units})] if store.has_lost_plans() else units


def _remembered(store: Store, named: Collection[str]) -> Iterator[PlannedUnit]:
    """Yields committed units that no plan file names: their cells must not be planned again, in other units."""
    for unit_id, tables in store.iter_units(sorted(store.committed() - set(named)), strays=set()):
        cells = [cell for name in ("scores", "failures") for cell in tables[name].to_pylist() if cell["cell_id"]]
        rows = tuple(PlannedRow(**{**_BLANK, **_known(cell)}) for cell in cells)
        if rows:
            yield PlannedUnit(unit_id, rows[0].model, rows[0].attribute, 0, 0.0, rows)


def failed_keys(scores: pa.Table, failures: pa.Table) -> set[tuple[Any, ...]]:
    """Returns the keys of cells that failed and that no later attempt scored."""
    if not failures.num_rows:
        return set()
    scored = {cell_key(row) for row in scores.select(CELL_KEY).to_pylist()}
    # Units of edits and traces fail as a whole, and are tried again by every run.
    cells = failures.filter(pc.is_valid(failures["cell_id"]))
    return {cell_key(row) for row in cells.select(CELL_KEY).to_pylist()} - scored


def units_left(store: Store) -> tuple[int, int]:
    """Returns how many units of the sweep are not committed, and how many it has; reads no results."""
    units, committed = planned_units(store), store.committed()
    return sum(unit.unit_id not in committed for unit in units), len(units)


def _known(cell: Mapping[str, Any]) -> dict[str, Any]:
    return {name: tuple(item) if isinstance(item, list) else item for name, item in cell.items() if name in _BLANK}


class SweepStage:
    """Derives units, and localizes every attribute as soon as it is complete."""

    def __init__(
        self,
        store: Store,
        spec: SweepSpec,
        resolved: Resolved,
        units: Sequence[PlannedUnit],
        tables: Tables,
        on_localized: Callable[[Localization], None],
    ) -> None:
        self._store, self._spec, self._resolved, self._tables = store, spec, resolved, tables
        self._on_localized = on_localized
        # The first of those that read scores says what more to run.
        self._localizers = [name for name in spec.localize.localizers if reads(name) is None]
        self._units = list(units)
        committed, self._published = store.committed(), published_units(store)
        self._remaining = [unit for unit in self._units if unit.unit_id not in committed]
        self._left: dict[Block, set[str]] = defaultdict(set)
        for unit in self._remaining:
            self._left[unit.model, unit.attribute].add(unit.unit_id)

    @property
    def next_order(self) -> int:
        """Number behind the last planned unit."""
        return len(self._units)

    def settled(self, items: Sequence[Settled]) -> list[Unit]:
        """Takes note of units that are done, and returns those that follow."""
        touched = []
        for item in items:
            planned: PlannedUnit = item.unit.payload
            block = (planned.model, planned.attribute)
            self._left[block].discard(planned.unit_id)
            if not self._left[block]:
                touched.append(block)
        return self._localize(touched)

    def begin(self) -> list[Unit]:
        """Returns the units to begin with: what is planned and not committed, and what follows from the rest."""
        blocks = sorted({(unit.model, unit.attribute) for unit in self._units})
        complete = [block for block in blocks if not self._left[block]]
        return [to_unit(unit, self._resolved) for unit in self._remaining] + self._localize(complete)

    def _localize(self, blocks: Sequence[Block]) -> list[Unit]:
        if not blocks or not self._localizers:
            return []
        more: list[Unit] = []
        done: list[Localization] = []
        for block in blocks:
            first, *others = self._localizers
            found = self._localize_one(block, first)
            wanted = {block: found.wants}
            new = missing_units(self._spec, self._resolved, self._units, requests=wanted) if found.wants else []
            if new:
                add_plan(self._store, new)
                self._units += new
                self._left[block] |= {unit.unit_id for unit in new}
                more += [to_unit(unit, self._resolved) for unit in new]
                continue
            done += [found, *(self._localize_one(block, name) for name in others)]
            if first == self._spec.localize.localizer:
                self._on_localized(found)
        self._tables.add(done)
        return more

    def _localize_one(self, block: Block, localizer: str) -> Localization:
        units = [unit for unit in self._units if (unit.model, unit.attribute) == block]
        scores = unit_rows(self._store, [unit.unit_id for unit in units], self._published)
        planned = _planned(units)
        missing = planned - {cell_key(row) for row in scores.select(CELL_KEY).to_pylist()}
        settings = self._spec.localize.model_copy(update={"localizer": localizer})
        try:
            sites, intervention = self._resolved.model(block[0]).site_names, self._spec.interventions[0]
            found = localize(scores, settings, sites, intervention, self._grid(block))
        except LocalizationError as error:
            # Every other attribute goes on: what was computed must not depend on one that cannot be localized.
            return unscored(block[0], self._resolved.attribute(block[1]), settings, str(error))
        return unless_incomplete(found, len(missing), len(planned))

    def _grid(self, block: Block) -> Grid | None:
        """Returns what may be asked for of an attribute; None of one that the sweep file names no more."""
        model, attribute = self._resolved.model(block[0]), block[1]
        named = [item for item in self._resolved.attributes if item.key == attribute]
        return grid(self._spec, named[0], model.n_sites) if named else None


class StoreJournal:
    """Keeps the scheduler's attempts and failures in the results root."""

    def __init__(self, store: Store, sweep_id: str, resolved: Resolved) -> None:
        self._store, self._sweep_id, self._resolved = store, sweep_id, resolved

    def previous(self) -> Mapping[str, int]:
        """Returns what the driver before this one left in flight."""
        return self._store.in_flight()

    def record(self, attempts: Mapping[str, int]) -> None:
        """Replaces the record of what is in flight."""
        self._store.record_in_flight(attempts)

    def give_up(self, unit: Unit, report: UnitReport) -> bool:
        """Commits a unit as nothing but failures, so that a late worker cannot commit it any more.

        A unit of edits or traces has no cells. It fails as a whole, under another name: the next run tries it again.
        """
        if self._store.blobs.exists(layout.unit(unit.unit_id)):
            return True
        info, name = self._resolved.model(unit.model), unit.unit_id
        if isinstance(unit.payload, PlannedUnit):
            cells = [cell_columns(row, self._sweep_id, info) for row in unit.payload.rows if row.emit]
        else:
            name = hashlib.sha256(f"{name} failed {uuid.uuid4()}".encode()).hexdigest()
            attribute = unit.payload.attribute
            cells = [
                {
                    "unit_id": name, "model": unit.model, "sweep_id": self._sweep_id,
                    "attribute": attribute.key, "attribute_kind": attribute.kind,
                }
            ]  # fmt: skip
        rows = [
            {
                **cell,
                "error_type": report.error_type or "Unknown",
                "error": report.error or "no message",
                "attempt": report.attempt,
                "schema_version": SCHEMA_VERSION,
            }
            for cell in cells
        ]
        return self._store.commit_unit(name, {"failures": make_table("failures", rows)}, uuid.uuid4().hex) == "lost"
