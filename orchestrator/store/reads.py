"""What is committed, published or not: out of parts where there are any, out of units where not; writes nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from orchestrator.store import DamagedFileError, MissingFileError, Store, layout
from orchestrator.store.ranges import RangedTable

FEW_UNITS = 8
"""So many units of a part are not worth reading all of it."""


def published_units(store: Store) -> dict[str, int]:
    """Returns the units of parts that are complete, each with the number of its part."""
    complete = layout.numbers(store.blobs.list(layout.PUBLISHED), layout.published)
    manifests = store.manifests()
    return {unit: number for number, units in manifests.items() if number in complete for unit in units}


def committed_rows(
    store: Store, table: str, columns: Sequence[str], published: Mapping[str, int], committed: frozenset[str]
) -> pa.Table:
    """Returns columns of a table's rows.

    Args:
        store: the results.
        table: which.
        columns: their names; ``unit_id`` is added.
        published: from `published_units`.
        committed: units that are wanted; files under their names that hold another unit are passed over.
    """
    names = list(dict.fromkeys([*columns, "unit_id"]))
    there = store.read_columns(table, names)
    # A part that is being written shows some of its files.
    there = there.filter(pc.is_in(there["unit_id"], pa.array(sorted(published), pa.string())))
    pending = store.read_units(sorted(committed - published.keys()), table, names, strays=set())
    return pa.concat_tables([there, pending])


def unit_rows(
    store: Store,
    unit_ids: Sequence[str],
    published: Mapping[str, int],
    table: str = "scores",
    columns: Sequence[str] | None = None,
) -> pa.Table:
    """Returns the rows of committed units in the given order, as `Store.read_units` does, of parts where it can.

    Read one by one, the ten thousand units of one attribute are as many requests to a bucket.

    Args:
        store: the results.
        unit_ids: committed units, each once.
        published: from `published_units`; those that are published since are read one by one.
        table: which.
        columns: those that are wanted; ``unit_id`` is added. None is all.

    Raises:
        StoreError: a unit is not committed, or its file is not what was written.
    """
    names = None if columns is None else list(dict.fromkeys([*columns, "unit_id"]))
    wanted = dict[int, list[str]]()
    single = [unit for unit in unit_ids if unit not in published]
    for unit in unit_ids:
        if unit in published:
            wanted.setdefault(published[unit], []).append(unit)
    parts = []
    for number, units in wanted.items():
        part = None if len(units) <= FEW_UNITS else _part(store, table, number, names)
        if part is None:
            single += units
        else:
            parts.append(part.filter(pc.is_in(part["unit_id"], pa.array(units, pa.string()))))
    rows = pa.concat_tables([*parts, store.read_units(single, table, names)], promote_options="default")
    places = pc.index_in(rows["unit_id"], pa.array(unit_ids, pa.string())).to_numpy()
    return rows.take(np.argsort(places, kind="stable"))


def _part(store: Store, table: str, number: int, columns: Sequence[str] | None) -> pa.Table | None:
    """Reads a part; None where its file is gone or damaged, which `verify` tells and the units make up for."""
    try:
        if columns is None:
            return store.read_part(table, number)
        return RangedTable(store.blobs, layout.part(table, number)).read(columns)
    except (MissingFileError, DamagedFileError):
        return None
