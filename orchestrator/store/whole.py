"""Whether all files are there that others name: asked before anything is computed or written."""

from __future__ import annotations

from collections.abc import Collection

import pyarrow.compute as pc

from orchestrator.store import layout
from orchestrator.store.derived import lost_files
from orchestrator.store.documents import Record, check_record
from orchestrator.store.errors import DamagedFileError, MissingFileError
from orchestrator.store.ranges import RangedTable
from orchestrator.store.store import Store


def check_whole(store: Store) -> None:
    """Looks whether every file is there that a manifest, or a record of a part, names; reads no rows.

    What is missing would be computed again, or reported as if it had never been.

    Args:
        store: the results; a driver may be at work on them.

    Raises:
        MissingFileError: a file is missing; the message says how to mend that.
        DamagedFileError: a manifest or a record is not what was written.
    """
    blobs = store.blobs
    # In the order in which what is written later is not missed: a record is written last, a manifest first.
    published = layout.numbers(blobs.list(layout.PUBLISHED), layout.published)
    there = store.part_files()
    manifests = store.manifests()
    records = store.records(manifests)
    records = {number: files for number, files in records.items() if number in published}
    following = max(manifests, default=0) + 1
    for path in (layout.manifest(following), layout.published(following)):
        # Says so where something that is no file is in the way.
        blobs.exists(path)
    named = {unit for units in manifests.values() for unit in units}
    missing = sorted(set[str]().union(*records.values()) - there.keys())
    # Only the last part can be unfinished: one is completed before the next is decided on.
    unfinished = manifests.keys() - published.keys() - {max(manifests, default=0)}
    missing += [path for path in map(layout.published, sorted(unfinished)) if not blobs.exists(path)]
    missing += sorted(_lost_manifests(store, published.keys() - manifests.keys(), named, there, manifests.keys()))
    missing += sorted(layout.unit(unit) for unit in named - store.all_committed())
    folders = {path.rpartition("/")[0] for files in records.values() for path in files}
    derived = ["effects", "localizations"] if layout.folder("scores") in folders else []
    derived += ["edits"] if layout.folder("fits") in folders else []
    missing += [path for name in derived if not blobs.exists(path := layout.part(name, 0))]
    missing += lost_files(store)
    if missing:
        more = f" and {len(missing) - 1} more files are" if len(missing) > 1 else " is"
        raise MissingFileError(
            f"{store.root}/{missing[0]}{more} missing; `loco-sweep verify {store.root} --repair` makes a part again "
            "from its units and a unit from its part, and puts in order what else is left"
        )


def _lost_manifests(
    store: Store, unnamed: Collection[int], named: set[str], there: dict[str, int], numbers: Collection[int]
) -> set[str]:
    """Returns manifests of which only the part is left: it has rows that no other part has, unlike a copy.

    Args:
        store: the results.
        unnamed: numbers of records without a manifest.
        named: units of the manifests that are there.
        there: files of parts with their numbers.
        numbers: of manifests.
    """
    lost = set()
    for path, number in there.items():
        if number in numbers or layout.manifest(number) in lost:
            continue
        try:
            units = pc.unique(RangedTable(store.blobs, path).read(["unit_id"])["unit_id"]).to_pylist()
        except (DamagedFileError, MissingFileError, KeyError):
            # Somebody's own.
            continue
        if not named.issuperset(units):
            lost.add(layout.manifest(number))
    for number in unnamed:
        record = store.document(layout.published(number), Record)
        try:
            # One without rows is what a repair leaves.
            files = check_record(record, number, layout.published(number)) if record else {}
        except DamagedFileError:
            continue
        if files and not files.keys().isdisjoint(there):
            lost.add(layout.manifest(number))
    return lost
