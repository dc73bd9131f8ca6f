"""Which file of a derived table a row belongs to: one small file per key, named after it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pyarrow as pa

from orchestrator.store import layout
from orchestrator.store.checksums import decode_table
from orchestrator.store.errors import REMEDY, DamagedFileError
from orchestrator.store.rows import checked_rows

Key = tuple[str, ...]
BY_HAND, METHOD, TOGETHER, SEQUENCE = "by hand: ", "method: ", "together: ", "sequence: "
"""How a localization begins in ``edits`` that is not one that a localizer found: a person named it, a published method
does, or it is that of several attributes, of which the rest are the names."""
KEYS = {
    "effects": ("model", "attribute", "localizer"), "localizations": ("model", "attribute", "localizer"),
    "edits": ("model", "attribute", "localization"), "trials": ("model", "attribute"),
    "metrics": ("model", "attribute"),
}  # fmt: skip
"""Columns that make up the key of a derived table."""


def key_of(table: str, row: Mapping[str, Any]) -> Key:
    """Returns the key of the file that a row of a derived table belongs to.

    That of ``edits`` is a place: an attribute of a model has one that is localized, wherever that is, and any number of
    others, each known by its localization.
    """
    values = [str(row[name] or "") for name in KEYS[table]]
    if table == "edits" and not values[-1].startswith((BY_HAND, METHOD, TOGETHER, SEQUENCE)):
        values[-1] = ""
    return tuple(values)


def keys_of(table: str, rows: pa.Table) -> list[Key]:
    """Returns the keys of rows, each once, in their order; see `key_of`."""
    return list(dict.fromkeys(key_of(table, row) for row in rows.select(list(KEYS[table])).to_pylist()))


def derived_rows(table: str, data: bytes, path: str, place: str) -> pa.Table:
    """Returns the rows of a file of a derived table.

    Args:
        table: which.
        data: the file's bytes.
        path: where it lies.
        place: the same for people.

    Raises:
        DamagedFileError: the bytes are not those that were written, or the rows are those of another file.
    """
    rows = checked_rows(table, decode_table(data, place), place)
    wrong = [key for key in keys_of(table, rows) if layout.derived(table, *key) != path]
    if wrong:
        whose = ", ".join(wrong[0])[:80]
        raise DamagedFileError(f"{place}: its rows are of another file ({whose}), as in a copy; {REMEDY}")
    return rows
