"""Publishes committed units as growing, immutable parts of the tables that people read.

A part is made in three writes, each of which only the first writer makes: the *manifest* decides which units it holds;
its *files* follow from the manifest and the units alone; the *published* record says that they are complete. A unit is
in one manifest at most, so that no crash and no second driver doubles a row; whoever comes next completes what is
unfinished. Each part holds a fixed share of what came before it: a million cells make about 60 files, and no file is
ever rewritten.
"""

from __future__ import annotations

import ctypes
import logging
import math
import sys
import uuid
from collections.abc import Iterable

import pyarrow as pa

from loco_core.errors import StoreError
from orchestrator.store import layout
from orchestrator.store.checksums import decode_table, encode_document, encode_table, sum_of
from orchestrator.store.documents import Manifest, Record, check_record, is_own_manifest, read_document
from orchestrator.store.errors import REMEDY, DamagedFileError
from orchestrator.store.schemas import described
from orchestrator.store.store import Store

_log = logging.getLogger(__name__)

FIRST_UNITS = 8
GROWTH = 0.15
MAX_BYTES = 128 * 2**20
"""Bytes of rows per part. Three times as much is in memory while a part is encoded and sealed."""


class Publisher:
    """Publishes the units of one store; remembers what it published, so that no unit is read twice."""

    def __init__(self, store: Store, *, max_bytes: int = MAX_BYTES) -> None:
        """Starts from what the store holds.

        Args:
            store: where units are committed.
            max_bytes: of rows in a part.
        """
        self._store = store
        self._max_bytes = max_bytes
        self._manifests: dict[int, tuple[str, ...]] = {}
        self._complete: set[int] = set()
        self._units: set[str] = set()
        # Manifests that are copies, whose numbers are taken all the same, and files of units that are.
        self._copies: set[int] = set()
        self._strays: set[str] = set()
        self._there: set[int] | None = None
        self._attempt = uuid.uuid4().hex

    @property
    def units(self) -> frozenset[str]:
        """Units that are published, as far as this publisher has seen."""
        return frozenset(self._units)

    def publish(self, *, flush: bool = False) -> int:
        """Completes what a killed publisher left, then publishes committed units if there are enough for a part.

        Args:
            flush: whether to publish all, however few; for the end of a run.

        Returns:
            How many units were published.

        Raises:
            DamagedFileError: a unit's file is not what was written.
        """
        self._catch_up()
        count = 0
        while True:
            pending = sorted(self._store.all_committed() - self._units - self._strays)
            if not pending or (not flush and len(pending) < self.wanted):
                return count
            taken, tables = gather(self._store, pending, self._max_bytes, strays=self._strays)
            if not taken:
                return count
            number = self._free_number()
            data = encode_document({"number": number, "units": taken})
            if self._store.blobs.put_if_absent(layout.manifest(number), data, self._attempt) == "lost":
                self._catch_up()
                if number not in self._manifests.keys() | self._copies:
                    raise StoreError(f"{self._store.root}/{layout.manifest(number)}: is there and cannot be listed")
                continue
            self._note(number, taken)
            self._finish(number, tables)
            count += len(taken)
            del tables
            _give_back()

    def _free_number(self) -> int:
        """Returns the next number that nothing has: copies that somebody made of parts stand in nobody's way."""
        if self._there is None:
            records = layout.numbers(self._store.blobs.list(layout.PUBLISHED), layout.published)
            self._there = {*self._store.part_files().values(), *records}
        number = max(self._manifests.keys() | self._copies, default=0) + 1
        while number in self._there:
            number += 1
        return number

    @property
    def wanted(self) -> int:
        """How many units make the next part."""
        return max(FIRST_UNITS, math.ceil(GROWTH * len(self._units)))

    def _catch_up(self) -> None:
        blobs = self._store.blobs
        for number, path in layout.numbers(blobs.list(layout.MANIFESTS), layout.manifest).items():
            if number not in self._manifests.keys() | self._copies:
                manifest = read_document(blobs.read(path), f"{self._store.root}/{path}", Manifest)
                if is_own_manifest(manifest, number, self._units):
                    self._note(number, manifest.units)
                else:
                    self._copies.add(number)
                    _log.warning("passed over: %s/%s is a copy of another manifest", self._store.root, path)
        if not self._manifests.keys() <= self._complete:
            self._complete.update(layout.numbers(blobs.list(layout.PUBLISHED), layout.published))
            for number in sorted(self._manifests.keys() - self._complete):
                self._finish(number, gather(self._store, self._manifests[number])[1])

    def _note(self, number: int, units: Iterable[str]) -> None:
        self._manifests[number] = tuple(units)
        self._units.update(units)

    def _finish(self, number: int, tables: dict[str, pa.Table]) -> None:
        blobs = self._store.blobs
        sums = {}
        for name, table in tables.items():
            if table.num_rows:
                path = layout.part(name, number)
                data = encode_table(table)
                if blobs.put_if_absent(path, data, self._attempt) == "lost":
                    data = blobs.read(path)
                    if not decode_table(data, f"{self._store.root}/{path}").equals(table):
                        message = f"{self._store.root}/{path}: is not the part that its units make"
                        raise DamagedFileError(f"{message}; {REMEDY}")
                sums[path] = sum_of(data)
        path = layout.published(number)
        if blobs.put_if_absent(path, encode_document({"files": sums}), self._attempt) == "lost":
            there = read_document(blobs.read(path), f"{self._store.root}/{path}", Record)
            if check_record(there, number, f"{self._store.root}/{path}") != sums:
                message = f"{self._store.root}/{path}: is not the record of the part that its units make"
                raise DamagedFileError(f"{message}; {REMEDY}")
        self._complete.add(number)


def _give_back() -> None:
    """Has the C library return memory that was freed: of units read by many threads it keeps pieces.

    Without this a driver grows by 0.5 KB per cell although nothing refers to that memory.
    """
    if sys.platform == "linux" and (trim := getattr(ctypes.CDLL(None), "malloc_trim", None)) is not None:
        trim(0)


def gather(
    store: Store, units: Iterable[str], max_bytes: float = math.inf, strays: set[str] | None = None
) -> tuple[list[str], dict[str, pa.Table]]:
    """Reads units until a part is full.

    Args:
        store: where they are committed.
        units: in the order of the part.
        max_bytes: of rows in memory; at least one unit is read.
        strays: see :meth:`Store.iter_units`.

    Returns:
        The units read, and their rows by table.
    """
    taken: list[str] = []
    parts: dict[str, list[pa.Table]] = {name: [described(name).empty_table()] for name in layout.parted()}
    size = 0
    for unit_id, tables in store.iter_units(units, strays=strays):
        filled = {name: table for name, table in tables.items() if len(table)}
        size += sum(table.nbytes for table in filled.values())
        if taken and size > max_bytes:
            break
        taken.append(unit_id)
        for name, table in filled.items():
            parts[name].append(table)
    return taken, {name: pa.concat_tables(tables) for name, tables in parts.items()}
