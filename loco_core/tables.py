"""What is asked of an Arrow table again and again, in terms that a type checker understands.

Arrow's compute functions take a column and a bare value alike; the types that are known for them do not, so that a
checker either passes over every such call or refuses it. Conditions on columns are expressions here.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import reduce
from operator import and_
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc


def where(**values: str | float) -> pc.Expression:
    """Returns the condition that columns hold these values; a null holds none."""
    return reduce(and_, (pc.field(name) == pc.scalar(value) for name, value in values.items()))


def rows_where(table: pa.Table, **values: str | float) -> pa.Table:
    """Returns the rows whose columns hold these values, in their order."""
    return table.filter(where(**values))


def in_order(table: pa.Table, columns: Iterable[str]) -> pa.Table:
    """Returns the rows in ascending order of these columns."""
    return table.sort_by([(name, "ascending") for name in columns])


def joined(*parts: pa.ChunkedArray[Any] | str, by: str) -> pa.ChunkedArray[Any]:
    """Returns columns of text, and words that stand in every row, joined row by row; null where a column is."""
    found: pa.ChunkedArray[Any] = pc.call_function(
        "binary_join_element_wise", [pa.scalar(part) if isinstance(part, str) else part for part in (*parts, by)]
    )
    return found


def distinct(table: pa.Table, name: str) -> list[Any]:
    """Returns the values of a column once each, sorted, without nulls."""
    return sorted(value for value in pc.unique(table[name]).to_pylist() if value is not None)
