"""A committed unit is one file: the rows of all its tables, so that they appear together or not at all.

Tables stand one behind the other as streams of Arrow, uncompressed, each naming itself in its schema, and the sum of
all bytes stands at the end. A unit is written once, read once or twice and then published as Parquet: for the 29 rows
of a batch, Parquet takes 60 times as long to write and 20 times to read, and saves a tenth of the bytes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.ipc as ipc

from loco_core.errors import StoreError
from orchestrator.store.checksums import decode_sealed, encode_sealed
from orchestrator.store.errors import REMEDY, DamagedFileError, not_installed
from orchestrator.store.layout import parted
from orchestrator.store.schemas import TABLES

_TABLE = b"loco_sweep_table"


class StrayUnitError(DamagedFileError):
    """A file is whole and holds another unit than its name says: a copy that somebody made."""


def encode_unit(unit_id: str, tables: Mapping[str, pa.Table]) -> bytes:
    """Returns the bytes of a unit, read back and compared.

    Args:
        unit_id: what every row's ``unit_id`` must say.
        tables: rows by table, of `orchestrator.store.layout.parted()`; a table without rows may be left out.

    Raises:
        StoreError: no rows, a table that units do not have, or rows of another schema or unit.
    """
    filled = {name: _checked(unit_id, name, table) for name, table in sorted(tables.items()) if table.num_rows}
    if not filled:
        raise StoreError(f"unit {unit_id} has no rows; expected a row in at least one of {', '.join(parted())}")
    data = encode_sealed(b"".join(_stream(name, table) for name, table in filled.items()))
    found = decode_unit(data, unit_id, unit_id)
    if any(not found[name].equals(table) for name, table in filled.items()):
        if nan := [f"{name}.{column}" for name, table in filled.items() for column in _with_nan(table)]:
            raise StoreError(
                f"unit {unit_id}: {nan[0]} holds a value that is no number (NaN); expected numbers of the scorer, and "
                "of the model that drew what it scores"
            )
        raise StoreError(f"unit {unit_id} does not read back as it was written; check this machine's memory")
    return data


def decode_unit(data: bytes, path: str, unit_id: str) -> dict[str, pa.Table]:
    """Returns the rows of a unit by table; tables without rows are empty.

    Args:
        data: from `encode_unit`.
        path: where they come from, for the message.
        unit_id: whose rows they must be.

    Raises:
        DamagedFileError: the bytes are not those that were written.
        StrayUnitError: they are another unit's.
        NewerVersionError: they are of a kind of work that is not installed here.
    """
    found = _tables(data, path)
    for name, table in found.items():
        if name not in parted() and "unit_id" in table.column_names:
            raise not_installed(path, name)
    try:
        tables = {name: _conformed(found[name], name) if name in found else _no_rows(name) for name in parted()}
    except (pa.ArrowException, KeyError, TypeError, ValueError) as error:
        raise DamagedFileError(f"{path}: holds no unit; {REMEDY}") from error
    _check_held(tables, path, unit_id)
    return tables


def decode_rows(data: bytes, path: str, unit_id: str, table: str, columns: Sequence[str] | None = None) -> pa.Table:
    """Returns rows of one table of a unit, which keep nothing else of it in memory.

    Args:
        data: from `encode_unit`.
        path: where they come from, for the message.
        unit_id: whose rows they must be.
        table: which.
        columns: which of its columns; None is all.

    Raises:
        DamagedFileError: the bytes are not those that were written.
        StrayUnitError: they are another unit's.
    """
    rows = decode_unit(data, path, unit_id)[table].select(list(TABLES[table].names if columns is None else columns))
    # A copy: what is decoded points into the file's bytes, and would keep its pictures and embeddings in memory.
    return rows.take(pa.array(range(len(rows)), pa.int64()))


def _stream(name: str, table: pa.Table) -> pa.Buffer:
    sink = pa.BufferOutputStream()
    named = table.replace_schema_metadata({_TABLE: name.encode()}).combine_chunks()
    with ipc.new_stream(sink, named.schema) as writer:
        writer.write_table(named)
    return sink.getvalue()


def _tables(data: bytes, path: str) -> dict[str, pa.Table]:
    content = pa.BufferReader(decode_sealed(data, path))
    found: dict[str, pa.Table] = {}
    try:
        while content.tell() < content.size():
            with ipc.open_stream(content) as reader:
                found[reader.schema.metadata[_TABLE].decode()] = reader.read_all()
    except (pa.ArrowException, OSError, KeyError, TypeError, ValueError) as error:
        # Whole, and no unit: a part, say, under the name of one.
        raise DamagedFileError(f"{path}: holds no unit; {REMEDY}") from error
    return found


def _check_held(tables: Mapping[str, pa.Table], path: str, unit_id: str) -> None:
    held = {each for table in tables.values() if len(table) for each in pc.unique(table["unit_id"]).to_pylist()}
    if held != {unit_id}:
        whose = ", ".join(sorted(str(each)[:16] for each in held)[:2]) or "none"
        raise StrayUnitError(f"{path}: its rows are of another unit ({whose}), as in a copy; {REMEDY}")


def _checked(unit_id: str, name: str, table: pa.Table) -> pa.Table:
    if name not in parted():
        raise StoreError(f"a unit has no table {name!r}; expected one of {', '.join(parted())}")
    schema = TABLES[name]
    if not table.schema.equals(schema):
        wrong = sorted({str(f) for f in table.schema} ^ {str(f) for f in schema}) or ["order of columns"]
        raise StoreError(f"unit {unit_id}: table {name} has another schema than it should: {', '.join(wrong)}")
    if pc.unique(table["unit_id"]).to_pylist() != [unit_id]:
        raise StoreError(f"unit {unit_id}: table {name} has rows of another unit")
    # Units say nothing of their columns: there are many, and what is published says it.
    return pa.table(table.columns, schema=schema)


def _with_nan(table: pa.Table) -> list[str]:
    """Returns the columns with numbers, or lists of them, of which one is none: it equals nothing, not even itself."""
    found = []
    for field in table.schema:
        column: Any = table[field.name]
        while pa.types.is_list(column.type):
            column = pc.list_flatten(column)
        if pa.types.is_floating(column.type) and pc.any(pc.is_nan(column)).as_py():
            found.append(field.name)
    return found


@cache
def _no_rows(name: str) -> pa.Table:
    return TABLES[name].empty_table()


def _conformed(table: pa.Table, name: str) -> pa.Table:
    schema = TABLES[name]
    if table.schema.equals(schema):
        return table.replace_schema_metadata(schema.metadata)
    # A column added to the schema after this unit was written is null.
    arrays = [table[f.name] if f.name in table.column_names else pa.nulls(len(table), f.type) for f in schema]
    return pa.table(arrays, schema=schema)
