"""A results root: the sweep, its plans, its units, and the tables that people read."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any

import pyarrow as pa

from loco_core.errors import SpecError, StoreError
from loco_core.masking import holds_credential
from orchestrator.spec import SweepSpec, check_compatible
from orchestrator.store import layout
from orchestrator.store.blobs import Blobs, Put
from orchestrator.store.errors import DamagedFileError, MissingFileError
from orchestrator.store.preflight import check_marker, not_shared
from orchestrator.store.ranges import RangedTable
from orchestrator.store.schemas import TABLES
from orchestrator.store.sealed import decode_document, decode_table, encode_document, encode_table
from orchestrator.store.units import decode_unit, encode_unit

_log = logging.getLogger(__name__)
_READERS = 16


class Store:
    """What is known of a sweep. All state is in the files: two stores on one root see the same."""

    def __init__(self, blobs: Blobs) -> None:
        """Opens a results root, without reading or writing anything.

        Args:
            blobs: storage of its files.
        """
        self.blobs = blobs

    @property
    def root(self) -> str:
        """Address of the root, for people."""
        return self.blobs.root

    def check_sweep(self, sweep_id: str, spec: SweepSpec) -> None:
        """Refuses a spec that these results cannot go on with; writes nothing.

        Raises:
            SpecError: the root holds another sweep, or this one with settings that do not go together.
        """
        old = self.sweep()
        if old is not None:
            check_compatible(old, spec)
            if self.sweep_id() != sweep_id:
                raise SpecError(f"{self.root} holds results of another sweep; write to a new folder with --results")

    def record_sweep(self, sweep_id: str, spec: SweepSpec, attempt_id: str) -> None:
        """Makes the root this sweep's, or goes on with it; every table can be read from here on.

        Args:
            sweep_id: see `orchestrator.identity.sweep_id`.
            spec: the spec at hand.
            attempt_id: unique to the caller.

        Raises:
            SpecError: the root holds another sweep, or this one with settings that do not go together.
            StoreError: the root holds something else.
        """
        data = encode_document({"sweep_id": sweep_id, "spec": spec.model_dump(mode="json")})
        won = self.blobs.put_if_absent(layout.SWEEP, data, attempt_id) == "won"
        old = None if won else self.sweep()
        if old is not None:
            self.check_sweep(sweep_id, spec)
            if old != spec:
                self.blobs.replace(layout.SWEEP, data)
        self.write_schemas(attempt_id)

    def write_schemas(self, attempt_id: str) -> None:
        """Puts a file without rows into every table that has none, so that every folder can be read from the start."""
        for name in layout.PARTED:
            path, empty = layout.part(name, 0), _without_rows(name)
            if self.blobs.put_if_absent(path, empty, attempt_id) == "lost":
                # Whoever reads the folder takes its columns from this file: one of an older version lacks some.
                known = decode_table(self.blobs.read(path), self._place(path)).column_names
                if not set(TABLES[name].names).issubset(known):
                    self.blobs.replace(path, empty)
        for name in layout.DERIVED:
            self.blobs.put_if_absent(layout.derived(name), _without_rows(name), attempt_id)

    def sweep(self) -> SweepSpec | None:
        """Returns the spec that the results were last run with, or None in a new root."""
        content = self._document(layout.SWEEP)
        return None if content is None else SweepSpec.model_validate(content["spec"], strict=False)

    def sweep_id(self) -> str | None:
        """Returns the identity of the sweep, or None in a new root."""
        content = self._document(layout.SWEEP)
        return None if content is None else str(content["sweep_id"])

    def add_plan(self, number: int, plan: pa.Table, attempt_id: str) -> Put:
        """Writes a plan file, once; plan files are never changed.

        Args:
            number: from 0, the next after `plans`.
            plan: its rows.
            attempt_id: unique to the caller.
        """
        return self.blobs.put_if_absent(layout.plan(number), encode_table(plan), attempt_id)

    def plans(self) -> dict[int, pa.Table]:
        """Returns the plan files by number, in their order."""
        paths = layout.numbers(self.blobs.list(layout.PLANS))
        return {n: decode_table(self.blobs.read(path), self._place(path)) for n, path in paths.items()}

    def has_lost_plans(self) -> bool:
        """Tells whether a plan file was damaged and set aside."""
        prefix = f"{layout.QUARANTINE}/{layout.PLANS.replace('/', '.')}."
        return any(path.startswith(prefix) for path in self.blobs.list(layout.QUARANTINE))

    def commit_unit(self, unit_id: str, tables: Mapping[str, pa.Table], attempt_id: str) -> Put:
        """Commits the results of a unit, all or nothing. The first commit wins; a later one changes nothing.

        Args:
            unit_id: identity of the unit.
            tables: rows by table, see `orchestrator.store.units.encode_unit`.
            attempt_id: unique to this attempt at the unit.

        Raises:
            StoreError: the rows are not as they should be, or the root cannot be written.
        """
        return self.blobs.put_if_absent(layout.unit(unit_id), encode_unit(unit_id, tables), attempt_id)

    def committed(self) -> frozenset[str]:
        """Returns the ids of all committed units; one listing."""
        return frozenset(layout.stem(path) for path in self.blobs.list(layout.UNITS) if path.endswith(".parquet"))

    def read_unit(self, unit_id: str) -> dict[str, pa.Table]:
        """Returns the rows of a committed unit by table.

        Raises:
            MissingFileError: it is not committed.
            DamagedFileError: its file is not what was written.
        """
        path = layout.unit(unit_id)
        return decode_unit(self.blobs.read(path), self._place(path))

    def iter_units(self, unit_ids: Iterable[str]) -> Iterator[tuple[str, dict[str, pa.Table]]]:
        """Yields the rows of committed units in the given order; reads a few at a time, ahead of need."""
        ids = list(unit_ids)
        with ThreadPoolExecutor(_READERS) as pool:
            for start in range(0, len(ids), _READERS):
                batch = ids[start : start + _READERS]
                yield from zip(batch, pool.map(self.read_unit, batch), strict=True)

    def read_units(self, unit_ids: Iterable[str], table: str = "scores") -> pa.Table:
        """Returns the rows of one table of committed units, published or not, in the given order."""
        return _joined(table, (tables[table] for _, tables in self.iter_units(unit_ids)))

    def read(self, table: str) -> pa.Table:
        """Returns a table as people see it: of growing tables the published rows, of derived tables all.

        Raises:
            DamagedFileError: one of its files is not what was written.
        """
        paths = self.blobs.list(layout.folder(table))
        return _joined(table, (decode_table(self.blobs.read(path), self._place(path)) for path in paths))

    def read_part(self, table: str, number: int) -> pa.Table:
        """Returns the rows of one published part of a growing table.

        Raises:
            MissingFileError: it is not published, or its file is gone.
            DamagedFileError: its file is not what was written.
        """
        path, record = layout.part(table, number), layout.published(number)
        # A part without rows of a table has no file of it.
        there = path in decode_document(self.blobs.read(record), self._place(record))["files"]
        return _joined(table, [decode_table(self.blobs.read(path), self._place(path))] if there else [])

    def read_columns(self, table: str, columns: Sequence[str]) -> pa.Table:
        """Returns some columns of what `read` returns, and reads no more than they take.

        Raises:
            DamagedFileError: one of its files is not readable, or not one of this project's.
        """
        paths = self.blobs.list(layout.folder(table))
        empty = TABLES[table].empty_table().select(list(columns))
        parts = (RangedTable(self.blobs, path).read(columns) for path in paths)
        return pa.concat_tables([empty, *parts], promote_options="default")

    def write_derived(self, table: str, rows: pa.Table) -> None:
        """Replaces a derived table (``effects``, ``localizations``, ``edits``, ``trials``) as a whole.

        Args:
            table: which.
            rows: all its rows, in the table's schema.
        """
        self.blobs.replace(layout.derived(table), _encode_derived(table, rows))

    def update_derived(self, table: str, change: Callable[[pa.Table], pa.Table]) -> None:
        """Replaces a derived table by what follows from it.

        Args:
            table: which.
            change: takes its rows and returns all that there shall be.

        Raises:
            StoreError: another driver replaced it meanwhile; nothing is written.
        """
        path = layout.derived(table)
        found = self.blobs.read_versioned(path)
        old = _joined(table, [decode_table(found.data, self._place(path))] if found else [])
        data = _encode_derived(table, change(old))
        if self.blobs.compare_and_swap(path, data, found.version if found else None) is None:
            message = f"{self._place(path)}: another driver wrote it at the same time"
            raise StoreError(f"{message}; wait for that driver, then run the command again")

    def record_in_flight(self, attempts: Mapping[str, int]) -> None:
        """Notes which units are being worked on, with the attempt each is at, for the driver's successor."""
        self.blobs.replace(layout.IN_FLIGHT, encode_document({"attempts": dict(attempts)}))

    def in_flight(self) -> dict[str, int]:
        """Returns what the last driver noted; a damaged note counts as none, since it only counts attempts."""
        try:
            content = self._document(layout.IN_FLIGHT)
        except DamagedFileError as error:
            _log.warning("attempts of the last run are not known: %s", error)
            return {}
        return dict(content["attempts"]) if content else {}

    def quarantine(self, path: str) -> None:
        """Moves a file out of the way, under ``_meta/quarantine``; nothing is thrown away."""
        found = self.blobs.read_versioned(path)
        if found is not None:
            kept = f"{layout.QUARANTINE}/{path.replace('/', '.')}.{re.sub(r'[^A-Za-z0-9]', '', found.version)[:12]}"
            self.blobs.put_if_absent(kept, found.data, found.version)
            self.blobs.delete(path)

    def _document(self, path: str) -> dict[str, Any] | None:
        found = self.blobs.read_versioned(path)
        return None if found is None else decode_document(found.data, self._place(path))

    def _place(self, path: str) -> str:
        return f"{self.root}/{path}"


def _encode_derived(table: str, rows: pa.Table) -> bytes:
    if table not in layout.DERIVED or not rows.schema.equals(TABLES[table]):
        raise StoreError(f"table {table} is not derived, or its rows have another schema than they should")
    return encode_table(rows.replace_schema_metadata(TABLES[table].metadata))


@cache
def _without_rows(table: str) -> bytes:
    return encode_table(TABLES[table].empty_table())


def _joined(table: str, parts: Iterable[pa.Table]) -> pa.Table:
    # Files of an older version lack columns that were added since; those are null.
    return pa.concat_tables([TABLES[table].empty_table(), *parts], promote_options="default")


def open_store(root: str, *, create: bool = True) -> Store:
    """Opens a results root.

    Args:
        root: a folder, or ``s3://bucket/folder``.
        create: whether to make a folder; without, it must hold a sweep.

    Raises:
        StoreError: the address is none, or there is no sweep.
    """
    scheme, separator, _ = root.partition("://")
    if separator and scheme not in ("s3", "file"):
        raise StoreError(f"{root}: expected a folder or s3://bucket/folder")
    if separator and holds_credential(root):
        raise StoreError(
            f"{root}: an address is written into the results and their reports; expected one without a password, and "
            "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY in the environment"
        )
    store = Store(_s3(root) if scheme == "s3" and separator else _local(root.removeprefix("file://"), create))
    if not create and not store.blobs.exists(layout.SWEEP):
        raise MissingFileError(f"{root}: holds no sweep; expected a results folder of `loco-sweep run`")
    return store


def open_as_worker(root: str, marker: str) -> Store:
    """Opens the results root of a run in one of its workers.

    Args:
        root: as the driver opened it.
        marker: see :func:`orchestrator.store.preflight`.

    Raises:
        StoreError: this machine has no such folder, or another one of that name.
    """
    try:
        store = open_store(root, create=False)
    except MissingFileError as error:
        raise not_shared(root) from error
    check_marker(store.blobs, marker)
    return store


def _local(root: str, create: bool) -> Blobs:
    from orchestrator.store.local import LocalBlobs

    return LocalBlobs(root, create=create)


def _s3(root: str) -> Blobs:
    # Loaded only where it is needed: s3fs and its libraries take a second.
    from orchestrator.store.s3 import S3Blobs

    return S3Blobs(root)
