"""Rows as the tables of a results root have them: made with the fixed types, and told from those of other tables."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import pyarrow as pa

from loco_core.errors import StoreError, did_you_mean
from orchestrator.store.errors import REMEDY, DamagedFileError
from orchestrator.store.schemas import TABLES

_TELLS = {
    "scores": "clip_score", "failures": "error_type", "embeddings": "embedding", "images": "image",
    "effects": "eligible", "localizations": "outcome", "fits": "norm", "edits": "norm", "evaluations": "split",
    "trials": "trial", "traces": "layer", "probes": "seconds_per_image",
    "usage": "waiting", "picture_metrics": "value", "features": "features", "metrics": "note", "attacks": "returned",
}  # fmt: skip
"""A column by which a table is told from others: it has been there from the first version on."""


def checked_rows(name: str, rows: pa.Table, place: str) -> pa.Table:
    """Returns rows, if they may be a table's; older files lack columns, newer ones have more.

    Args:
        name: of the table.
        rows: as read.
        place: where they come from, for the message.

    Raises:
        DamagedFileError: they are another table's.
    """
    schema, there = TABLES[name], set(rows.column_names)
    wrong = [field.name for field in schema if field.name in there and rows.schema.field(field.name).type != field.type]
    tells = _TELLS.get(name) or schema.names[-1]
    if wrong or tells not in there:
        what = f"column {wrong[0]} has another type" if wrong else f"there is no column {tells}"
        raise DamagedFileError(f"{place}: is no table {name} ({what}); {REMEDY}")
    return rows


def checked_plan(rows: pa.Table, place: str) -> pa.Table:
    """Returns the rows of a plan file, if they may be such; see `checked_rows`.

    Raises:
        DamagedFileError: they are a table's.
    """
    if not {"unit_id", "prompt", "slice"}.issubset(rows.column_names):
        raise DamagedFileError(f"{place}: is no plan (there is no column slice); {REMEDY}")
    return rows


def make_table(name: str, rows: Iterable[Mapping[str, Any]]) -> pa.Table:
    """Returns rows as a table with the fixed types; columns that a row lacks are null.

    Args:
        name: of the table, a key of `TABLES`.
        rows: by column name.

    Raises:
        StoreError: a row has a column that the table has not, or a value of another type.
    """
    schema, listed = TABLES[name], list(rows)
    for column in {column for row in listed for column in row} - set(schema.names):
        raise StoreError(f"table {name} has no column {column!r}{did_you_mean(column, schema.names)}")
    try:
        return pa.Table.from_pylist(listed, schema=schema)
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise StoreError(f"table {name}: {error}") from error
