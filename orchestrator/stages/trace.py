"""Traces: what the localizers that read them need, and what these say of every attribute whose traces are complete."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import pyarrow as pa

from loco_core.errors import LocalizationError
from loco_core.localizers import Localization
from loco_core.tables import rows_where
from loco_core.tracing import Method, reads
from orchestrator.resolve import Resolved
from orchestrator.scheduler.protocol import Settled, Unit
from orchestrator.spec import SweepSpec
from orchestrator.stages.committed import committed_rows, published_units
from orchestrator.stages.localize import Tables, localize, unless_incomplete, unscored
from orchestrator.store import Store
from orchestrator.store.schemas import TABLES
from orchestrator.trace_plan import PAIR, TraceUnit, pair_of, trace_units, wanted_pairs
from orchestrator.worker import to_unit

Block = tuple[str, str, Method]  # model, attribute, method


def committed_traces(store: Store, columns: Sequence[str] = tuple(TABLES["traces"].names)) -> pa.Table:
    """Returns the traces of all committed units, published or not; writes nothing.

    Args:
        store: the results.
        columns: those that are wanted.
    """
    return committed_rows(store, "traces", columns, published_units(store), store.committed())


class TraceStage:
    """Derives the units of traces from the sweep, and localizes by each method what it has traced."""

    def __init__(
        self,
        store: Store,
        spec: SweepSpec,
        resolved: Resolved,
        first_order: int,
        tables: Tables,
        on_localized: Callable[[Localization], None],
    ) -> None:
        """Starts from what the store holds.

        Args:
            store: the results.
            spec: the sweep.
            resolved: the sweep with its names looked up.
            first_order: number behind the last planned unit.
            tables: take what is found.
            on_localized: told what the localizer found that edits follow.
        """
        self._store, self._spec, self._resolved = store, spec, resolved
        self._tables, self._on_localized = tables, on_localized
        self._readers: dict[Method, list[str]] = {}
        for name in spec.localize.localizers:
            if (method := reads(name)) is not None:
                self._readers.setdefault(method, []).append(name)
        self._rows = committed_traces(store) if self._readers else TABLES["traces"].empty_table()
        traced = {pair_of(row) for row in self._rows.select(PAIR).to_pylist()}
        self._units = trace_units(spec, resolved, traced, first_order)
        self._left: dict[Block, set[str]] = {
            (model.id, attribute.key, method): set()
            for model in resolved.models
            for attribute in resolved.attributes
            for method in self._readers
        }
        for unit in self._units:
            self._left[unit.model, unit.attribute.key, unit.method].add(unit.unit_id)
        self.next_order = first_order + len(self._units)

    def begin(self) -> list[Unit]:
        """Returns all units; localizes what is complete already."""
        self._localize([block for block, left in self._left.items() if not left])
        return [to_unit(unit, self._resolved) for unit in self._units]

    def settled(self, items: Iterable[Settled]) -> list[Unit]:
        """Takes note of units that are done; no unit follows from them."""
        complete: list[Block] = []
        for item in items:
            unit: TraceUnit = item.unit.payload
            block = (unit.model, unit.attribute.key, unit.method)
            self._left[block].discard(unit.unit_id)
            if item.report.outcome != "failed":
                self._rows = pa.concat_tables([self._rows, self._store.read_units([unit.unit_id], "traces")])
            if not self._left[block]:
                complete.append(block)
        self._localize(complete)
        return []

    def _localize(self, blocks: Sequence[Block]) -> None:
        found = []
        for block in blocks:
            for name in self._readers[block[2]]:
                found.append(self._localize_one(block, name))
                if name == self._spec.localize.localizer:
                    self._on_localized(found[-1])
        if found:
            self._tables.add(found)

    def _localize_one(self, block: Block, localizer: str) -> Localization:
        model, attribute = self._resolved.model(block[0]), self._resolved.attribute(block[1])
        rows = traces_of(self._rows, *block)
        wanted = wanted_pairs(self._spec, model.id, attribute, block[2]).keys()
        missing = wanted - {pair_of(row) for row in rows.select(PAIR).to_pylist()}
        settings = self._spec.localize.model_copy(update={"localizer": localizer})
        try:
            found = localize(rows, settings, model.site_names, None)
        except LocalizationError as error:
            return unscored(model.id, attribute, settings, str(error))
        return unless_incomplete(found, len(missing), len(wanted))


def traces_of(rows: pa.Table, model: str, attribute: str, method: str) -> pa.Table:
    """Returns the traces of one (model, attribute) by one method."""
    return rows_where(rows, method=method, model=model, attribute=attribute)
