"""Finds damaged files, and mends what can be mended so that the same run command makes up for the rest.

Units and parts hold the same rows, so one restores the other. Where both are damaged, the unit is taken out of the way and
computed again, and the other units of its part are published anew. Nothing is deleted: damaged files go to
``_meta/quarantine``. For the one driver that holds the lease.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import pyarrow.compute as pc

from loco_core.errors import StoreError
from orchestrator.store import layout
from orchestrator.store.errors import DamagedFileError
from orchestrator.store.publish import Publisher, gather
from orchestrator.store.sealed import decode_document, decode_table, encode_document, encode_table, sum_of
from orchestrator.store.store import Store
from orchestrator.store.units import decode_unit, encode_unit

_READERS = 8


@dataclass(frozen=True)
class Damage:
    """A file that is not what was written.

    Attributes:
        path: under the results root.
        problem: what is wrong with it.
        remedy: what ``repair`` does about it.
    """

    path: str
    problem: str
    remedy: str


@dataclass(frozen=True)
class _Survey:
    """What a look at all files found; problems by path, unit id or number of a part."""

    manifests: dict[int, tuple[str, ...]]
    published: frozenset[int]
    bad_units: dict[str, str]
    bad_manifests: dict[int, str]
    bad_parts: dict[int, dict[str, str]]
    bad_others: dict[str, str]


def verify(store: Store) -> list[Damage]:
    """Reads every file of a results root and compares it with its sum.

    Args:
        store: the results.

    Returns:
        What is damaged, by path; empty if all is well.
    """
    return _damages(_look(store))


def repair(store: Store) -> list[Damage]:
    """Mends what `verify` finds; afterwards the run command computes exactly the units that were lost.

    Safe to be killed and repeated.

    Args:
        store: the results; the caller holds their lease.

    Returns:
        What was damaged.
    """
    survey = _look(store)
    for path in survey.bad_others:
        store.quarantine(path)
    for number in sorted(survey.manifests.keys() | survey.bad_manifests.keys()):
        units = survey.manifests.get(number, ())
        lost = [unit_id for unit_id in units if unit_id in survey.bad_units]
        sound = number in survey.published and number not in survey.bad_parts
        if number in survey.bad_manifests or (lost and not sound):
            _withdraw(store, number)
        elif lost:
            _restore(store, number, lost)
        elif number in survey.bad_parts:
            _rewrite(store, number, units)
    restored = {u for n, units in survey.manifests.items() if n not in survey.bad_parts for u in units}
    for unit_id in survey.bad_units.keys() - (restored & _sound_units(store, survey)):
        store.quarantine(layout.unit(unit_id))
    store.write_schemas(uuid.uuid4().hex)
    Publisher(store).publish(flush=True)
    return _damages(survey)
