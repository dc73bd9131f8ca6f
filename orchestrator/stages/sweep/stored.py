"""Plans in the results root, and what its tables say of planned cells; all of it by columns."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from loco_core.errors import LocoError
from loco_core.tables import joined as joined_texts
from loco_core.types import Intervention, PromptRecord
from orchestrator.stages.sweep.planned import (
    EMPTY,
    PLAN_SCHEMA,
    Integers,
    Plan,
    Prompt,
    from_table,
    joined,
    number_sets,
)
from orchestrator.stages.sweep.rows import CELL_KEY
from orchestrator.stages.sweep.variants import BASELINES, CellVariant, Variants
from orchestrator.store import Store, layout
from orchestrator.store.reads import committed_rows, published_units

_VARIANT = (
    "control", "window_start", "window_size", "site_indices", "part", "step_start", "step_end", "tokens",
    "guidance_half", "pooled", "source",
)  # fmt: skip
_PROMPT = ("attribute", "attribute_kind", "mode", "prompt_id", "template_id", "prompt", "donor")
_TEXTS = ("score_text", "donor_text", "content_text", "sibling_texts")
FAILURE_COLUMNS = ["unit_id", *CELL_KEY, *(name for name in _VARIANT if name not in CELL_KEY)]
"""What `failed_units` reads of ``failures``."""


def add_plan(store: Store, new: Plan) -> None:
    """Writes units as the next plan file; a plan file is never changed.

    Raises:
        LocoError: another driver wrote one at the same time.
    """
    if len(new):
        number = store.next_plan()
        if store.add_plan(number, new.to_table(), uuid.uuid4().hex) == "lost":
            raise LocoError(f"{store.root}: another driver wrote plan {number} at the same time; run the command again")
        store.record_plans(number + 1)


def drop_plans(store: Store) -> None:
    """Sets the plan files of a sweep aside of which nothing was made."""
    for path in layout.numbers(store.blobs.list(layout.PLANS), layout.plan).values():
        store.quarantine(path)


def planned(store: Store, steps: int) -> Plan:
    """Returns the units of all plan files, in order, and what is committed of plan files that were set aside.

    Args:
        store: the results.
        steps: of the sweep's generation.
    """
    found = joined([from_table(table) for _, table in sorted(store.plans().items())])
    return found + _remembered(store, found, steps) if store.has_lost_plans() else found


def units_left(store: Store) -> tuple[int, int]:
    """Returns how many planned units are not committed, and how many there are; reads no results."""
    units = joined([from_table(table) for table in store.plans().values()])
    return len(units.without(store.committed())), len(units)


def of_cells(failures: pa.Table) -> pa.Table:
    """Returns those rows of ``failures`` that are of cells.

    Units of edits and traces fail as a whole, and are tried again by every run.
    """
    return failures.filter(pc.is_valid(failures["cell_id"]))


def failed_cells(scores: pa.Table, failures: pa.Table) -> pa.Table:
    """Returns the failures of cells that no later attempt scored, of each cell the last one.

    Args:
        scores: rows with the columns `CELL_KEY`.
        failures: rows with these columns, and whatever else is wanted.
    """
    cells = of_cells(failures)
    if not cells.num_rows:
        return cells
    again = scores.filter(pc.is_in(scores["cell_id"], _values(cells["cell_id"])))
    key = _text(cells, CELL_KEY)
    open_ = np.asarray(pc.invert(pc.is_in(key, _values(_text(again, CELL_KEY)))))
    last = len(key) - 1 - np.unique(_codes(key)[::-1], return_index=True)[1]
    return cells.take(np.sort(last[open_[last]]))


def failed_units(failed: pa.Table, known: Plan, steps: int) -> Plan:
    """Returns failed cells as units of a plan, for `orchestrator.stages.sweep.plan.plan_again`.

    Args:
        failed: from `failed_cells`, with `FAILURE_COLUMNS`.
        known: all plans.
        steps: of the generation.
    """
    at = pc.index_in(failed["unit_id"], _values(known.units["unit_id"])).fill_null(-1).to_numpy()
    failed, at = failed.filter(pa.array(at >= 0)), at[at >= 0]
    rows, place = np.unique(at, return_inverse=True)
    return _with_cells(known.take(rows), place, failed, steps)


def _remembered(store: Store, known: Plan, steps: int) -> Plan:
    """Returns committed units that no plan file names: their cells must not be planned again, in other units."""
    units = store.committed() - set(known.unit_ids)
    published, wanted = published_units(store), pa.array(sorted(units), pa.string())
    columns = ["unit_id", "cell_id", "model", "seed", *_PROMPT, *_VARIANT]
    tables = []
    for table, names in (("scores", [*columns, *_TEXTS]), ("failures", columns)):
        rows = committed_rows(store, table, names, published, units).select(names)
        tables.append(rows.filter(pc.and_(pc.is_in(rows["unit_id"], wanted), pc.is_valid(rows["cell_id"]))))
    cells = pa.concat_tables(tables, promote_options="default").combine_chunks()
    if not cells.num_rows:
        return EMPTY
    texts = cells.select([*_PROMPT, *_TEXTS])
    prompt, place = _codes(_text(texts, texts.column_names)), _codes(cells["unit_id"])
    firsts, heads = (np.unique(each, return_index=True)[1] for each in (prompt, place))
    head, count = cells.take(heads), len(heads)
    found = Plan(
        pa.table(
            [
                pc.cast(head[field.name], field.type)
                if field.name in ("unit_id", "model", "attribute", "seed")
                else pa.array(np.zeros(count), field.type)
                for field in PLAN_SCHEMA
            ],
            schema=PLAN_SCHEMA,
        ),
        tuple(_prompt_of(row) for row in texts.take(firsts).to_pylist()),
        (),
    )
    # As of a retry: a cell may be there twice, failed and scored.
    found = found.with_columns({"prompt": prompt[heads], "round": np.ones(count)})
    return _with_cells(found.numbered(known.next_order), place, cells, steps)


def _prompt_of(row: dict[str, Any]) -> Prompt:
    score, donor, content, siblings = (row[name] or "" for name in _TEXTS)
    record = PromptRecord(
        row["prompt"], row["donor"], score, donor, content, row["template_id"] or "", tuple(siblings)
    )  # fmt: skip
    return Prompt(row["attribute"], row["attribute_kind"], row["mode"], row["prompt_id"], record, ())


def _with_cells(units: Plan, place: Integers, cells: pa.Table, steps: int) -> Plan:
    """Returns units that hold the given cells and no others.

    Args:
        units: each with at least one cell.
        place: number of the unit of each cell.
        cells: rows of ``scores`` or ``failures``.
        steps: of the generation.
    """
    code, variants = _variants(cells, steps)
    _, numbers, sets = number_sets(place, code)
    held = [tuple(dict.fromkeys(variants[each] for each in part)) for part in sets]
    slices: list[Variants] = [tuple(each for each in part if each not in BASELINES) for part in held]
    clean, donor = (np.array([each in part for part in held], np.bool_) for each in BASELINES)
    counts = np.array([len(part) for part in held])
    columns = {"slice": numbers, "clean": clean[numbers], "donor": donor[numbers], "cells": counts[numbers]}
    return replace(units.with_columns(columns), slices=tuple(slices))


def _variants(cells: pa.Table, steps: int) -> tuple[Integers, list[CellVariant]]:
    """Returns the number of the variant of each cell, and the variants."""
    code = _codes(_text(cells, _VARIANT))
    _, firsts = np.unique(code, return_index=True)
    found = []
    for row in cells.select(_VARIANT).take(firsts).to_pylist():
        control, start, size, sites, part, first, last, *options = (row[name] for name in _VARIANT)
        if control == BASELINES[1].control:
            # However it was drawn, of a donor that is a model at all sites.
            found.append(BASELINES[1])
            continue
        end = None if last is None or last >= steps else last
        found.append(CellVariant(control, start, size, Intervention(tuple(sites or ()), part, first, end, *options)))
    return code, found


def _text(rows: pa.Table, names: Sequence[str]) -> pa.ChunkedArray[Any]:
    """Returns a text per row that tells apart what these columns say."""
    parts = []
    for name in names:
        column: Any = rows[name]
        if pa.types.is_list(column.type):
            column = pc.binary_join(pc.cast(column, pa.list_(pa.string())), ",")
        parts.append(pc.fill_null(pc.cast(column, pa.string()), "\0"))
    return joined_texts(*parts, by="\x1f")


def _codes(column: pa.ChunkedArray[Any]) -> Integers:
    """Returns a number per row, the same for the same text."""
    return np.asarray(column.combine_chunks().dictionary_encode().indices.to_numpy(), np.int64)


def _values(column: pa.ChunkedArray[Any]) -> pa.Array[Any]:
    return column.combine_chunks()
