"""What edits are measured on already: so that nothing is measured twice, whoever asked for it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import pyarrow as pa

from loco_core.tables import rows_where
from orchestrator.stages.edit.plan import Pair, PlannedEdit, Probe, measured_pair, pair
from orchestrator.store import Publisher, Store

COLUMNS = (
    "model", "attribute", "edit_id", "scope", "split", "prompt_role", "prompt", "clip_text", "seed", "judge",
    "judge_kind", "judge_said", "judge_before", "judge_after", "flipped", "status", "margin_before", "margin_after",
    "metrics", "flipped_by_margin", "margin_texts",
)  # fmt: skip
"""What is read of ``evaluations``, and what a worker reports of them."""
MOST_CHUNKS = 200
"""Pieces of a table that are looked through one by one before they are made one."""


class EvaluationIndex:
    """The rows of ``evaluations`` that are committed, published or not."""

    def __init__(self, store: Store) -> None:
        """Reads what is there; further units are added as they are done."""
        self._store = store
        publisher = Publisher(store)
        publisher.publish()
        # A full publication would leave a small part behind at every start.
        pending = sorted(store.committed() - publisher.units)
        there = store.read_units(pending, "evaluations", COLUMNS, strays=set())
        self._table = pa.concat_tables([store.read_columns("evaluations", COLUMNS), there]).combine_chunks()

    def add(self, unit_id: str, reported: pa.Table | None) -> None:
        """Takes note of a unit that was committed.

        Args:
            unit_id: the unit.
            reported: its rows, with the columns `COLUMNS`; None where they are only in the store.
        """
        rows = self._store.read_units([unit_id], "evaluations", COLUMNS) if reported is None else reported
        self._table = pa.concat_tables([self._table, rows])
        if self._table["edit_id"].num_chunks > MOST_CHUNKS:
            self._table = self._table.combine_chunks()

    def rows(
        self, model: str, attribute: str, edits: Iterable[PlannedEdit], drawn: Sequence[Probe]
    ) -> list[dict[str, Any]]:
        """Returns what was seen of some edits on some probes."""
        wanted = {pair(edit, probe) for edit in edits for probe in drawn}
        listed = rows_where(self._table, model=model, attribute=attribute).to_pylist()
        return [row for row in listed if measured_pair(row) in wanted]

    def pairs(self, model: str, attribute: str, edits: Iterable[PlannedEdit], drawn: Sequence[Probe]) -> set[Pair]:
        """Returns which of some edits are measured on which of some probes."""
        wanted = {metric for probe in drawn for metric in probe.metrics}
        rows = self.rows(model, attribute, edits, drawn)
        # Those on which a metric is lacking that is wanted now are drawn again: pictures are not kept.
        return {measured_pair(row) for row in rows if wanted.issubset(row["metrics"] or ())}

    def other_texts(self, model: str, attribute: str, edit: PlannedEdit, drawn: Sequence[Probe]) -> bool:
        """Tells whether an edit is measured on some of the probes, but with a margin against other texts alone."""
        there = {measured_pair(row) for row in rows_where(self._table, model=model, attribute=attribute).to_pylist()}
        lacking = {wanted[:-1] for probe in drawn if (wanted := pair(edit, probe)) not in there}
        # Of older results nobody wrote down which texts they were measured against.
        return any(found[-1] and found[:-1] in lacking for found in there)
