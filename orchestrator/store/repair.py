"""Mends damaged results as far as can be, so that the same run command makes up for the rest.

Units and parts hold the same rows, so one restores the other. Where both are damaged, the unit is taken out of the way
and computed again, and the other units of its part are published anew. Nothing is deleted: damaged files go to
``_meta/quarantine``. For the one driver that holds the lease.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable

import pyarrow.compute as pc

from orchestrator.store import layout
from orchestrator.store.checksums import decode_table, encode_document, encode_table, sum_of
from orchestrator.store.damage import LOST_PLANS, Damage, Survey, damages
from orchestrator.store.derived import forget_lost
from orchestrator.store.publish import Publisher, gather
from orchestrator.store.store import Store
from orchestrator.store.units import encode_unit
from orchestrator.store.verify import look


def repair(store: Store) -> list[Damage]:
    """Mends what `verify` finds; afterwards the run command computes exactly the units that were lost.

    Safe to be killed and repeated.

    Args:
        store: the results, as `orchestrator.store.leased` yields them.

    Returns:
        What was damaged.

    Raises:
        StoreError: the results cannot be read or written, or are a newer version's.
    """
    survey = look(store)
    for path in survey.bad_others:
        _set_aside(store, path)
    forget_lost(store, filter(layout.is_derived, survey.bad_others))
    restored: set[str] = set()
    for number in sorted(survey.manifests.keys() | survey.bad_manifests.keys()):
        units = survey.manifests.get(number, ())
        lost = [unit_id for unit_id in units if unit_id in survey.bad_units]
        sound = number in survey.sums and number not in survey.bad_parts
        if number in survey.bad_manifests or (lost and not sound):
            _withdraw(store, number)
        elif lost:
            _restore(store, number, lost)
            restored.update(lost)
        elif number in survey.bad_parts:
            _rewrite(store, number, units, survey)
    for unit_id in sorted(survey.bad_units.keys() - restored):
        store.quarantine(layout.unit(unit_id))
    store.write_schemas(uuid.uuid4().hex)
    Publisher(store).publish(flush=True)
    return damages(survey)


def _set_aside(store: Store, path: str) -> None:
    if path == LOST_PLANS:
        # Whoever plans again takes what is committed into account, as of a plan that was damaged.
        store.blobs.put_if_absent(f"{layout.QUARANTINE}/{LOST_PLANS.replace('/', '.')}", b"", uuid.uuid4().hex)
    else:
        store.quarantine(path)


def _restore(store: Store, number: int, units: list[str]) -> None:
    """Makes unit files from the part that holds their rows."""
    paths = {name: layout.part(name, number) for name in layout.parted()}
    parts = {name: decode_table(store.blobs.read(p), p) for name, p in paths.items() if store.blobs.exists(p)}
    for unit_id in units:
        store.quarantine(layout.unit(unit_id))
        rows = {name: table.filter(pc.field("unit_id") == unit_id).combine_chunks() for name, table in parts.items()}
        store.blobs.replace(layout.unit(unit_id), encode_unit(unit_id, rows))


def _rewrite(store: Store, number: int, units: Iterable[str], survey: Survey) -> None:
    """Makes the files of a part from its units; what is not as it was written is set aside, like rows of no unit."""
    tables = gather(store, units)[1]
    empty = {layout.part(name, number): "has no rows" for name, table in tables.items() if not table.num_rows}
    for path, problem in (empty | survey.bad_parts[number]).items():
        if problem != "missing" and path not in survey.immovable:
            store.quarantine(path)
    sums = {}
    for name, table in tables.items():
        if table.num_rows:
            path, data = layout.part(name, number), encode_table(table)
            sums[path] = sum_of(data)
            store.blobs.replace(path, data)
    store.blobs.replace(layout.published(number), encode_document({"files": sums}))


def _withdraw(store: Store, number: int) -> None:
    """Empties a part, so that its units count as not published.

    The number stays taken, so that no second driver can publish under it, and rows vanish before they return.
    """
    for name in layout.parted():
        store.quarantine(layout.part(name, number))
    store.quarantine(layout.manifest(number))
    store.blobs.replace(layout.manifest(number), encode_document({"number": number, "units": []}))
    store.blobs.replace(layout.published(number), encode_document({"files": {}}))
