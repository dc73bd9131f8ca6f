"""Traces: what the localizers that read them need, and what these say of every attribute whose traces are complete."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from loco_core.errors import LocalizationError
from loco_core.localization.base import Localization, name_of
from loco_core.tables import rows_where
from loco_core.tracing.base import reads, tracer_id
from orchestrator.scheduler.protocol import Settled, Unit
from orchestrator.stages.base import Stage, StageContext
from orchestrator.stages.localize import Tables, localize, unless_incomplete, unscored
from orchestrator.stages.trace.plan import PAIR, Tracing, pair_of, trace_units, wanted_pairs
from orchestrator.store import Store
from orchestrator.store.reads import committed_rows, published_units, unit_rows

Block = tuple[str, str, str]  # model, attribute, method


def committed_pairs(store: Store) -> list[dict[str, Any]]:
    """Returns what is traced, published or not: one row per prompt, seed and unit, with the columns `PAIR`.

    Args:
        store: the results; nothing is written.
    """
    names = [*PAIR, "unit_id"]
    rows = committed_rows(store, "traces", names, published_units(store), store.committed())
    return rows.group_by(names).aggregate([]).to_pylist()


class TraceStage(Stage):
    """Derives the units of traces from the sweep, and localizes by each method what it has traced."""

    name = "trace"

    def __init__(self, context: StageContext, tables: Tables) -> None:
        """Starts from what the store holds.

        Args:
            context: see `StageContext`.
            tables: tables of what was localized.
        """
        self._store, self._spec, self._resolved = context.store, context.spec, context.resolved
        self._announce, self._side, self._tables = context.announce, context.side, tables
        store, spec, resolved, first_order = self._store, self._spec, self._resolved, context.first_order
        self._readers: dict[str, list[str]] = {}
        for name in spec.localize.localizers:
            if (tracer := reads(name)) is not None:
                self._readers.setdefault(tracer_id(tracer), []).append(name)
        before = committed_pairs(store) if self._readers else []
        traced = {pair_of(row) for row in before}
        self._units = trace_units(spec, resolved, traced, first_order)
        self._left: dict[Block, set[str]] = {
            (model.id, attribute.key, method): set()
            for model in resolved.models
            for attribute in resolved.attributes
            for method in self._readers
        }
        for unit in self._units:
            self._left[_block(unit)].add(unit.unit_id)
        self._rows: dict[Block, list[pa.Table]] = {block: [] for block in self._left}
        # Committed by an earlier run, or by another attempt than the one that reported.
        self._unreported: dict[Block, dict[str, None]] = {block: {} for block in self._left}
        for row in before:
            if (block := (row["model"], row["attribute"], row["method"])) in self._unreported:
                self._unreported[block][row["unit_id"]] = None
        self.next_order = first_order + len(self._units)

    def begin(self) -> list[Unit]:
        """Returns all units; localizes what is complete already."""
        for block in [block for block, left in self._left.items() if not left]:
            self._localize(block)
        units, self._units = self._units, []
        return units

    def settled(self, done: Sequence[Settled]) -> list[Unit]:
        """Takes note of units that are done; what follows is localized beside the loop."""
        for item in done:
            block = _block(item.unit)
            self._left[block].discard(item.unit.unit_id)
            if item.report.reported is not None:
                self._rows[block].append(item.report.reported)
            elif item.report.outcome != "failed":
                self._unreported[block][item.unit.unit_id] = None
            if not self._left[block]:
                self._localize(block)
        return []

    def _localize(self, block: Block) -> None:
        """Localizes by the traces that there are, beside the loop."""
        reported, unreported = self._rows.pop(block), list(self._unreported.pop(block))

        def job() -> list[Localization]:
            there = unit_rows(self._store, unreported, published_units(self._store), "traces")
            rows = pa.concat_tables([*reported, traces_of(there, *block)])
            found = [self._localize_one(block, name, rows) for name in self._readers[block[2]]]
            self._tables.add(found)
            return found

        self._side.submit(job, self._follow)

    def _follow(self, found: Sequence[Localization]) -> list[Unit]:
        followed = [item for item in found if item.localizer == name_of(self._spec.localize.localizer)]
        return [unit for item in followed for unit in self._announce(item)]

    def _localize_one(self, block: Block, localizer: str, rows: pa.Table) -> Localization:
        model, attribute = self._resolved.model(block[0]), self._resolved.attribute(block[1])
        wanted = wanted_pairs(self._spec, model.id, attribute, block[2]).keys()
        missing = wanted - {pair_of(row) for row in rows.group_by(PAIR).aggregate([]).to_pylist()}
        settings = self._spec.localize.model_copy(update={"localizer": localizer})
        try:
            found = localize(rows, settings, model.site_names, None)
        except LocalizationError as error:
            return unscored(model.id, attribute, settings, str(error))
        return unless_incomplete(found, len(missing), len(wanted))


def _block(unit: Unit) -> Block:
    planned: Tracing = unit.payload
    return unit.model, planned.attribute.key, planned.method


def traces_of(rows: pa.Table, model: str, attribute: str, method: str) -> pa.Table:
    """Returns the traces of one (model, attribute) by one method."""
    return rows_where(rows, method=method, model=model, attribute=attribute)
