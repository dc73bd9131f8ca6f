"""Tables that are derived from others: one small file per key, each replaced whole.

A file is named after its key, and its rows say the same, so that a copy under another name is told from it. Which files
there are stands in ``_meta/tables.json``, written after them: a file that it names and that is not there was lost.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import pyarrow as pa

from loco_core.errors import StoreError
from orchestrator.store import layout
from orchestrator.store.checksums import encode_document, encode_table
from orchestrator.store.documents import TableFiles
from orchestrator.store.keyed import KEYS, Key, derived_rows, key_of
from orchestrator.store.schemas import TABLES, described
from orchestrator.store.store import Store


def write_derived(store: Store, tables: Mapping[str, pa.Table], keys: Iterable[Key] = ()) -> None:
    """Replaces files of derived tables; those of other keys stand.

    Args:
        store: the results.
        tables: rows by table (``effects``, ``localizations``, ``edits``, ``trials``), of whole files.
        keys: keys whose files are replaced even if there are no rows of them.

    Raises:
        StoreError: rows of another schema, or another driver replaced a file at the same time.
    """
    named, written = _named(store), set[str]()
    for table, rows in tables.items():
        if table not in layout.DERIVED or not rows.schema.equals(TABLES[table]):
            raise StoreError(f"table {table} is not derived, or its rows have another schema than they should")
        mine = [key_of(table, row) for row in rows.select(list(KEYS[table])).to_pylist()]
        for key in dict.fromkeys([*mine, *keys]):
            part = rows.filter(pa.array([each == key for each in mine], pa.bool_())).combine_chunks()
            path = layout.derived(table, *key)
            found = store.blobs.read_versioned(path)
            data = encode_table(pa.table(part.columns, schema=described(table)))
            if store.blobs.compare_and_swap(path, data, found.version if found else None) is None:
                message = f"{store.root}/{path}: another driver wrote it at the same time"
                raise StoreError(f"{message}; wait for that driver, then run the command again")
            written.add(path)
    _name(store, named, named | written)


def drop_derived(store: Store, paths: Iterable[str]) -> None:
    """Removes files of derived tables: what they say is true no more.

    Args:
        store: the results.
        paths: their paths; those that are not there are passed over.
    """
    gone = sorted(set(paths))
    forget_lost(store, gone)
    for path in gone:
        store.blobs.delete(path)


def read_derived(store: Store, table: str, key: Key) -> pa.Table:
    """Returns the rows of one file of a derived table; none where there is no such file.

    Raises:
        DamagedFileError: it is not what was written.
    """
    path = layout.derived(table, *key)
    found = store.blobs.read_versioned(path)
    if found is None:
        return TABLES[table].empty_table()
    return derived_rows(table, found.data, path, f"{store.root}/{path}")


def lost_files(store: Store) -> list[str]:
    """Returns files of derived tables that were written and are not there.

    Raises:
        DamagedFileError: the document that names them is not what was written.
    """
    there = {path for table in layout.DERIVED for path in store.blobs.list(table)}
    lost = {path for path in _named(store) - there if not store.blobs.exists(path)}
    # A driver at work may have dropped one meanwhile, which it says first.
    return sorted(lost & _named(store)) if lost else []


def forget_lost(store: Store, paths: Iterable[str]) -> None:
    """Takes note that files of derived tables are gone: whatever wrote them may write them again.

    Args:
        store: the results.
        paths: their paths.
    """
    named = _named(store)
    _name(store, named, named.difference(paths))


def _named(store: Store) -> frozenset[str]:
    found = store.document(layout.TABLE_FILES, TableFiles)
    return frozenset(found.files if found else ())


def _name(store: Store, before: frozenset[str], now: frozenset[str]) -> None:
    if now != before:
        store.blobs.replace(layout.TABLE_FILES, encode_document({"files": sorted(now)}))
