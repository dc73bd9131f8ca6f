"""Columns of what is committed, published or not: of parts where there are any, of units where not; writes nothing."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa
import pyarrow.compute as pc

from orchestrator.store import Store, decode_document, layout


def published_units(store: Store) -> frozenset[str]:
    """Returns the units of parts that are complete."""
    complete = layout.numbers(store.blobs.list(layout.PUBLISHED))
    manifests = layout.numbers(store.blobs.list(layout.MANIFESTS))
    paths = [path for number, path in manifests.items() if number in complete]
    return frozenset(unit for path in paths for unit in decode_document(store.blobs.read(path), path)["units"])


def committed_rows(
    store: Store, table: str, columns: Sequence[str], published: frozenset[str], committed: frozenset[str]
) -> pa.Table:
    """Returns columns of a table's rows.

    Args:
        store: the results.
        table: which.
        columns: their names; ``unit_id`` is added.
        published: from `published_units`.
        committed: all units.
    """
    names = list(dict.fromkeys([*columns, "unit_id"]))
    there = store.read_columns(table, names)
    # A part that is being written shows some of its files.
    there = there.filter(pc.is_in(there["unit_id"], pa.array(sorted(published), pa.string())))
    pending = store.read_units(sorted(committed - published), table).select(names)
    return pa.concat_tables([there, pending])
