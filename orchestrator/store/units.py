"""A committed unit is one file: the rows of all its tables side by side, so that they appear together or not at all.

Every table is one column of structs, as long as the longest; shorter tables end in nulls. Reading one table reads its
columns only.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from loco_core.errors import StoreError
from orchestrator.store.errors import REMEDY, DamagedFileError
from orchestrator.store.layout import PARTED
from orchestrator.store.schemas import TABLES
from orchestrator.store.sealed import decode_table, encode_table


class StrayUnitError(DamagedFileError):
    """A file is whole and holds another unit than its name says: a copy that somebody made."""


def encode_unit(unit_id: str, tables: Mapping[str, pa.Table]) -> bytes:
    """Returns the bytes of a unit, read back and compared.

    Args:
        unit_id: what every row's ``unit_id`` must say.
        tables: rows by table, of `orchestrator.store.layout.PARTED`; a table without rows may be left out.

    Raises:
        StoreError: no rows, a table that units do not have, or rows of another schema or unit.
    """
    filled = {name: _checked(unit_id, name, table) for name, table in sorted(tables.items()) if table.num_rows}
    if not filled:
        raise StoreError(f"unit {unit_id} has no rows; expected a row in at least one of {', '.join(PARTED)}")
    height = max(table.num_rows for table in filled.values())
    columns = {name: _padded(table, height) for name, table in filled.items()}
    data = encode_table(pa.table(columns))
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
    """
    packed = decode_table(data, path)
    try:
        tables = {name: _rows(packed, name) for name in PARTED}
    except (pa.ArrowException, AttributeError, TypeError, ValueError) as error:
        # Whole, and no unit: a part, say, under the name of one.
        raise DamagedFileError(f"{path}: holds no unit; {REMEDY}") from error
    held = {each for table in tables.values() for each in pc.unique(table["unit_id"]).to_pylist()}
    if held != {unit_id}:
        whose = ", ".join(sorted(str(each)[:16] for each in held)[:2]) or "none"
        raise StrayUnitError(f"{path}: its rows are of another unit ({whose}), as in a copy; {REMEDY}")
    return tables


def _checked(unit_id: str, name: str, table: pa.Table) -> pa.Table:
    if name not in PARTED:
        raise StoreError(f"a unit has no table {name!r}; expected one of {', '.join(PARTED)}")
    schema = TABLES[name]
    if not table.schema.equals(schema):
        wrong = sorted({str(f) for f in table.schema} ^ {str(f) for f in schema}) or ["order of columns"]
        raise StoreError(f"unit {unit_id}: table {name} has another schema than it should: {', '.join(wrong)}")
    if pc.unique(table["unit_id"]).to_pylist() != [unit_id]:
        raise StoreError(f"unit {unit_id}: table {name} has rows of another unit")
    return table.replace_schema_metadata(schema.metadata)


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


def _padded(table: pa.Table, height: int) -> pa.Array[Any]:
    structs = table.to_struct_array().combine_chunks()
    return pa.concat_arrays([structs, pa.nulls(height - table.num_rows, structs.type)])


def _rows(packed: pa.Table, name: str) -> pa.Table:
    schema = TABLES[name]
    if name not in packed.column_names:
        return schema.empty_table()
    structs = packed[name].combine_chunks().drop_null()
    assert isinstance(structs, pa.StructArray)
    # A column added to the schema after this unit was written is null.
    columns = dict(zip((f.name for f in structs.type), structs.flatten(), strict=True))
    arrays = [columns[f.name] if f.name in columns else pa.nulls(len(structs), f.type) for f in schema]
    return pa.table(arrays, schema=schema)
