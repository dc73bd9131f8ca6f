"""The sweep: which units remain, and what follows from those that are committed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import pyarrow as pa

from loco_core.errors import LocalizationError
from loco_core.localization.base import Grid, Localization
from loco_core.tracing.base import reads
from orchestrator.scheduler.protocol import Settled, Unit
from orchestrator.stages.base import Row, Stage, StageContext, make_unit
from orchestrator.stages.localize import Tables, localize, unless_incomplete, unscored
from orchestrator.stages.sweep.plan import plan
from orchestrator.stages.sweep.planned import EMPTY, Plan, SweepUnit, joined
from orchestrator.stages.sweep.rows import (
    LOCALIZER_COLUMNS,
    NUMBERS,
    Reported,
    cell_columns,
    rows_of,
    score_rows,
)
from orchestrator.stages.sweep.stored import add_plan
from orchestrator.stages.sweep.variants import ModelAttribute, grid
from orchestrator.store.reads import published_units, unit_rows


class KeptScores:
    """What was reported of the units of one (model, attribute), until it is localized: 41 bytes per cell."""

    def __init__(self, units: Plan) -> None:
        """Starts with nothing reported.

        Args:
            units: all units of the (model, attribute).
        """
        self.units = EMPTY
        self._starts = np.zeros(1, np.int64)
        self._told = np.zeros(0, np.bool_)
        self._numbers: Reported | None = None
        self.grow(units)

    def grow(self, more: Plan) -> None:
        """Adds units."""
        self.units = joined([self.units, more])
        self._starts = np.concatenate([[0], np.cumsum(self.units.column("cells"))])
        self._told = np.concatenate([self._told, np.zeros(len(more), np.bool_)])
        if self._numbers is not None:
            self._numbers = _extended(self._numbers, int(self._starts[-1]))

    def put(self, place: int, found: Reported | None) -> None:
        """Keeps what a unit reported; None where it was given up, so that it has no scores."""
        self._told[place] = True
        if found is not None:
            if self._numbers is None:
                self._numbers = _extended(None, int(self._starts[-1]))
            span = slice(self._starts[place], self._starts[place + 1])
            self._numbers.numbers[span], self._numbers.status[span] = found.numbers, found.status

    def rows(self, steps: int) -> pa.Table:
        """Returns the rows that were reported, see `score_rows`."""
        found = self._numbers or _extended(None, int(self._starts[-1]))
        return score_rows(self.units, found, steps)

    @property
    def untold(self) -> list[str]:
        """Units that nothing was reported of: others have committed them."""
        return self.units.take(~self._told).unit_ids

    def drop(self) -> None:
        """Forgets what was reported; it is in the store."""
        self._numbers, self._told = None, np.zeros(len(self.units), np.bool_)


def _extended(found: Reported | None, cells: int) -> Reported:
    numbers, status = np.full((cells, len(NUMBERS)), np.nan), np.zeros(cells, np.int8)
    if found is not None:
        numbers[: len(found.status)], status[: len(found.status)] = found.numbers, found.status
    return Reported(numbers, status)


@dataclass(frozen=True)
class _Outcome:
    """What the scores of one (model, attribute) say: what was found, or what is to be run first."""

    found: tuple[Localization, ...]
    more: Plan


class SweepStage(Stage):
    """Derives units, and localizes every attribute as soon as it is complete."""

    name = "sweep"
    is_final = True

    def __init__(self, context: StageContext, units: Plan, tables: Tables) -> None:
        """Starts from what the store holds.

        Args:
            context: see `StageContext`.
            units: units of all plan files, in order.
            tables: tables of what was localized.
        """
        self._context, self._store, self._tables = context, context.store, tables
        self._spec, self._resolved = context.spec, context.resolved
        # The first of those that read scores says what more to run.
        self._localizers = [name for name in self._spec.localize.localizers if reads(name) is None]
        self._published = published_units(self._store)
        self._remaining = units.without(self._store.committed())
        self._kept = {key: KeptScores(units.take(units.rows_of(*key))) for key in units.model_attributes}
        self._left: dict[ModelAttribute, dict[str, int]] = {key: {} for key in self._kept}
        for key in self._remaining.model_attributes:
            mine = self._remaining.take(self._remaining.rows_of(*key))
            self._wait(key, mine)
        self.next_order = units.next_order
        """Number behind the last planned unit."""

    def begin(self) -> list[Unit]:
        """Returns the units to begin with: what is planned and not committed, and what follows from the rest."""
        for key in [key for key, left in self._left.items() if not left]:
            self._localize(key)
        units, self._remaining = self._units(self._remaining), EMPTY
        return units

    def settled(self, done: Sequence[Settled]) -> list[Unit]:
        """Takes note of units that are done; attributes that are complete are localized beside the loop."""
        for item in done:
            unit: SweepUnit = item.unit.payload
            key = (unit.model, unit.attribute)
            place = self._left[key].pop(unit.unit_id, None)
            reported: Reported | None = item.report.reported
            if place is not None and (reported is not None or item.report.outcome == "failed"):
                self._kept[key].put(place, reported)
            if place is not None and not self._left[key]:
                self._localize(key)
        return []

    def failures(self, unit: Unit) -> list[Row]:
        """Returns one row per cell of a unit that was given up."""
        model, planned = self._resolved.model(unit.model), unit.payload
        rows = rows_of(planned, model, self._resolved.scorer, model.generation(self._spec.generation.settings))
        return [cell_columns(row, self._context.sweep_id, model) for row in rows if row.emit]

    def _wait(self, key: ModelAttribute, units: Plan) -> None:
        """Notes units of a (model, attribute) that are to be run, by their places among all of its units."""
        place = {name: i for i, name in enumerate(self._kept[key].units.unit_ids)}
        self._left[key].update((name, place[name]) for name in units.unit_ids)

    def _units(self, planned: Plan) -> list[Unit]:
        models = {name: self._resolved.model(name) for name in planned.names("model")}
        columns = (planned.units[name].to_pylist() for name in ("unit_order", "expected_seconds"))
        return [
            make_unit(self.name, payload.unit_id, models[payload.model], order, seconds, payload, payload.block)
            for payload, order, seconds in zip(planned.payloads(), *columns, strict=True)
        ]

    def _localize(self, key: ModelAttribute) -> None:
        if self._localizers:
            # Nothing changes what is kept of it meanwhile: no unit of it is left.
            self._context.side.submit(partial(self._outcome, key), partial(self._follow, key))

    def _follow(self, key: ModelAttribute, outcome: _Outcome) -> list[Unit]:
        """Returns the units that an outcome asks for, or those that follow from what was found."""
        if len(outcome.more):
            new = outcome.more.numbered(self.next_order)
            add_plan(self._store, new)
            self.next_order += len(new)
            self._kept[key].grow(new)
            self._wait(key, new)
            return self._units(new)
        self._kept[key].drop()
        if self._localizers[0] != self._spec.localize.localizer:
            return []
        return self._context.announce(outcome.found[0])

    def _outcome(self, key: ModelAttribute) -> _Outcome:
        """Localizes one (model, attribute), or plans what the first localizer wants to be run before."""
        kept = self._kept[key]
        stored = unit_rows(self._store, kept.untold, self._published, columns=LOCALIZER_COLUMNS)
        reported = kept.rows(self._spec.generation.steps)
        scores = pa.concat_tables([reported, stored.select(LOCALIZER_COLUMNS)])
        first, *others = self._localizers
        found = self._localize_one(key, first, scores)
        more = EMPTY
        if found.wants:
            more = plan(self._spec, self._resolved, kept.units, requests={key: found.wants})
        if len(more):
            return _Outcome((found,), more)
        every = (found, *(self._localize_one(key, name, scores) for name in others))
        self._tables.add(every)
        return _Outcome(every, EMPTY)

    def _localize_one(self, key: ModelAttribute, localizer: str, scores: pa.Table) -> Localization:
        settings = self._spec.localize.model_copy(update={"localizer": localizer})
        try:
            sites, intervention = self._resolved.model(key[0]).site_names, self._spec.interventions[0]
            found = localize(scores, settings, sites, intervention, self._grid(key))
        except LocalizationError as error:
            # Every other attribute goes on: what was computed must not depend on one that cannot be localized.
            return unscored(key[0], self._resolved.attribute(key[1]), settings, str(error))
        cells = self._kept[key].units.cells_of(*key)
        return unless_incomplete(found, cells - scores.num_rows, cells)

    def _grid(self, key: ModelAttribute) -> Grid | None:
        """Returns what may be asked for of an attribute; None of one that the sweep file names no more."""
        model, attribute = self._resolved.model(key[0]), key[1]
        named = [item for item in self._resolved.attributes if item.key == attribute]
        return grid(self._spec, named[0], model.n_sites) if named else None
