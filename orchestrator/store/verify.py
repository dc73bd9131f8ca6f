"""Finds damaged files, and mends what can be mended so that the same run command makes up for the rest.

Units and parts hold the same rows, so one restores the other. Where both are damaged, the unit is taken out of the way
and computed again, and the other units of its part are published anew. Nothing is deleted: damaged files go to
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
    restored: set[str] = set()
    for number in sorted(survey.manifests.keys() | survey.bad_manifests.keys()):
        units = survey.manifests.get(number, ())
        lost = [unit_id for unit_id in units if unit_id in survey.bad_units]
        sound = number in survey.published and number not in survey.bad_parts
        if number in survey.bad_manifests or (lost and not sound):
            _withdraw(store, number)
        elif lost:
            _restore(store, number, lost)
            restored.update(lost)
        elif number in survey.bad_parts:
            _rewrite(store, number, units)
    for unit_id in survey.bad_units.keys() - restored:
        store.quarantine(layout.unit(unit_id))
    store.write_schemas(uuid.uuid4().hex)
    Publisher(store).publish(flush=True)
    return _damages(survey)


def _restore(store: Store, number: int, units: list[str]) -> None:
    """Makes unit files from the part that holds their rows."""
    paths = {name: layout.part(name, number) for name in layout.PARTED}
    parts = {name: decode_table(store.blobs.read(p), p) for name, p in paths.items() if store.blobs.exists(p)}
    for unit_id in units:
        rows = {name: table.filter(pc.field("unit_id") == unit_id).combine_chunks() for name, table in parts.items()}
        store.blobs.replace(layout.unit(unit_id), encode_unit(unit_id, rows))


def _rewrite(store: Store, number: int, units: Iterable[str]) -> None:
    """Makes the files of a part from its units."""
    sums = {}
    for name, table in gather(store, units)[1].items():
        if table.num_rows:
            path, data = layout.part(name, number), encode_table(table)
            sums[path] = sum_of(data)
            store.blobs.replace(path, data)
    store.blobs.replace(layout.published(number), encode_document({"files": sums}))


def _withdraw(store: Store, number: int) -> None:
    """Empties a part, so that its units count as not published.

    The number stays taken, so that no second driver can publish under it, and rows vanish before they return.
    """
    for name in layout.PARTED:
        store.quarantine(layout.part(name, number))
    store.blobs.replace(layout.manifest(number), encode_document({"units": []}))
    store.blobs.replace(layout.published(number), encode_document({"files": {}}))


def _look(store: Store) -> _Survey:
    blobs = store.blobs
    manifests: dict[int, tuple[str, ...]] = {}
    bad_manifests: dict[int, str] = {}
    # Listed before the manifests: a part published meanwhile is then unfinished, not foreign.
    published = layout.numbers(blobs.list(layout.PUBLISHED))
    for number, path in layout.numbers(blobs.list(layout.MANIFESTS)).items():
        problem = _problem(store, path, decode_document)
        if problem:
            bad_manifests[number] = problem
        else:
            manifests[number] = tuple(decode_document(blobs.read(path), path)["units"])
    bad_parts: dict[int, dict[str, str]] = {}
    known = {
        layout.part(name, n) for name in layout.PARTED for n in (manifests.keys() | bad_manifests) - published.keys()
    }
    for number, path in published.items():
        files, problems = _check_part(store, path)
        known |= files
        if problems:
            bad_parts[number] = problems
            known |= {layout.part(name, number) for name in layout.PARTED}
    return _Survey(
        manifests,
        frozenset(published),
        _bad_units(store, {unit_id for units in manifests.values() for unit_id in units}),
        bad_manifests,
        bad_parts,
        _bad_others(store, known),
    )


def _check_part(store: Store, path: str) -> tuple[set[str], dict[str, str]]:
    """Returns the files of a published part, and the problems among them by path."""
    problem = _problem(store, path, decode_document)
    if problem:
        return set(), {path: problem}
    sums: dict[str, str] = decode_document(store.blobs.read(path), path)["files"]
    problems = {}
    for file, expected in sums.items():
        if not store.blobs.exists(file):
            problems[file] = "missing"
        elif sum_of(store.blobs.read(file)) != expected:
            problems[file] = _problem(store, file, decode_table) or "not the file that was published"
    return set(sums), problems


def _bad_units(store: Store, expected: set[str]) -> dict[str, str]:
    committed = sorted(store.committed())

    def problem(unit_id: str) -> str:
        return _problem(store, layout.unit(unit_id), decode_unit)

    with ThreadPoolExecutor(_READERS) as pool:
        problems = dict(zip(committed, pool.map(problem, committed), strict=True))
    missing = dict.fromkeys(expected.difference(committed), "missing")
    return {unit_id: text for unit_id, text in problems.items() if text} | missing


def _bad_others(store: Store, known: set[str]) -> dict[str, str]:
    """Returns problems of plans, documents, derived tables and empty parts, and files that nobody published."""
    blobs = store.blobs
    bad = {path: _problem(store, path, decode_table) for path in blobs.list(layout.PLANS)}
    for path in (layout.SWEEP, layout.RESOLVED, layout.IN_FLIGHT, layout.LEASE, layout.PROGRESS):
        if blobs.exists(path):
            bad[path] = _problem(store, path, decode_document)
    bad |= _bad_deltas(store)
    own = {layout.part(name, 0) for name in layout.PARTED} | {layout.derived(name) for name in layout.DERIVED}
    for path in (path for name in (*layout.PARTED, *layout.DERIVED) for path in blobs.list(layout.folder(name))):
        if path in own:
            bad[path] = _problem(store, path, decode_table)
        elif path not in known:
            bad[path] = "not published by loco-sweep"
    return {path: problem for path, problem in bad.items() if problem}


def _bad_deltas(store: Store) -> dict[str, str]:
    """Returns problems of the files that ``edits`` names; none where that table itself is damaged."""
    try:
        edits = store.read("edits").select(["delta_path", "delta_sha256"]).to_pylist()
    except StoreError:
        return {}
    bad = {}
    for path, expected in {row["delta_path"]: row["delta_sha256"] for row in edits if row["delta_path"]}.items():
        if not store.blobs.exists(path):
            bad[path] = "missing"
        elif sum_of(store.blobs.read(path)) != expected:
            bad[path] = "not the file that was written"
    return bad


def _problem(store: Store, path: str, decode: Callable[[bytes, str], object]) -> str:
    """Returns what is wrong with a file, or an empty text."""
    try:
        decode(store.blobs.read(path), path)
    except DamagedFileError as error:
        return str(error).removeprefix(f"{path}: ").partition(";")[0]
    except StoreError as error:
        return str(error)
    return ""


def _damages(survey: _Survey) -> list[Damage]:
    in_sound_part = {
        unit_id
        for number, units in survey.manifests.items()
        if number in survey.published and number not in survey.bad_parts
        for unit_id in units
    }
    found = [
        Damage(
            layout.unit(unit_id),
            problem,
            "restored from its published rows" if unit_id in in_sound_part else "set aside, to be computed again",
        )
        for unit_id, problem in survey.bad_units.items()
    ]
    found += [
        Damage(layout.manifest(number), problem, "its units are published anew")
        for number, problem in survey.bad_manifests.items()
    ]
    found += [
        Damage(path, problem, "made again from its units")
        for problems in survey.bad_parts.values()
        for path, problem in problems.items()
    ]
    found += [
        Damage(path, problem, "set aside, to be fitted again" if path.startswith(layout.DELTAS) else "set aside")
        for path, problem in survey.bad_others.items()
    ]
    return sorted(found, key=lambda damage: damage.path)
