"""What the edit stage knows of its units: which are committed, which are awaited, what they gave, and what is measured.

Places of one attribute and of several share it, so that nothing is planned twice.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import pyarrow as pa

from orchestrator.scheduler.protocol import Settled, Unit
from orchestrator.stages.edit.evaluation_index import EvaluationIndex
from orchestrator.stages.edit.plan import Evaluation
from orchestrator.store import Store
from orchestrator.store.keyed import SEQUENCE, TOGETHER

Key = tuple[str, str, str]
"""Model, attribute and localization of a place; no attribute where it is of several."""


def key_of(unit: Unit) -> Key:
    """Returns the place that a unit is of."""
    planned = unit.payload
    several = planned.localization.startswith((TOGETHER, SEQUENCE))
    return unit.model, "" if several else planned.attribute.key, planned.localization


class Ledger:
    """The units of edits.

    Attributes:
        order: number in the plan of the next unit.
    """

    def __init__(self, store: Store, first_order: int) -> None:
        """Starts from what the store holds.

        Args:
            store: the results.
            first_order: number in the plan from which units count.
        """
        self._store, self.order = store, first_order
        self._committed = set(store.committed())
        self._waiting: dict[Key, set[str]] = {}
        self._fits: dict[str, pa.Table] = {}

    @cached_property
    def measured(self) -> EvaluationIndex:
        """What is measured."""
        return EvaluationIndex(self._store)

    def missing(self, key: Key, units: Sequence[Unit]) -> list[Unit]:
        """Returns those of some units that are not committed; the place waits for them."""
        missing = [unit for unit in units if unit.unit_id not in self._committed]
        self._waiting[key] = {unit.unit_id for unit in missing}
        self.order += len(missing)
        return missing

    def note(self, item: Settled) -> Key | None:
        """Takes note of a unit that is done, and returns its place if that waits for no other."""
        unit, key = item.unit, key_of(item.unit)
        self._waiting[key].discard(unit.unit_id)
        if item.report.outcome != "failed":
            self._committed.add(unit.unit_id)
            if isinstance(unit.payload, Evaluation):
                self.measured.add(unit.unit_id, item.report.reported)
            elif item.report.reported is not None:
                self._fits[unit.unit_id] = item.report.reported
        return None if self._waiting[key] else key

    def fit(self, key: Key, unit: Unit) -> list[Unit]:
        """Returns a unit that fits if it is not committed, or if a file that it wrote is gone: it writes it anew."""
        if unit.unit_id in self._committed:
            paths = (path for path in self.fitted(unit)["delta_path"].to_pylist() if path)
            if not all(self._store.blobs.exists(path) for path in paths):
                self._committed.discard(unit.unit_id)
        return self.missing(key, [unit])

    def fitted(self, fit: Unit) -> pa.Table:
        """Returns the rows of ``fits`` of a committed unit."""
        if fit.unit_id not in self._fits:
            self._fits[fit.unit_id] = self._store.read_units([fit.unit_id], "fits")
        return self._fits[fit.unit_id]


def with_choice(table: pa.Table, chosen: Sequence[bool], localization: str, by: str) -> pa.Table:
    """Returns rows of ``edits`` with what is known once edits are measured.

    Args:
        table: the rows as they were fitted, perhaps under another localization.
        chosen: whether each row's edit is chosen.
        localization: what picked the sites.
        by: what chose.
    """
    said = {"chosen": chosen, "localization": [localization] * len(table), "chosen_by": [by] * len(table)}
    for name, values in said.items():
        at = table.schema.get_field_index(name)
        field = table.schema.field(at)
        table = table.set_column(at, field, pa.array(values, field.type))
    return table.combine_chunks()
