"""A results root: the sweep, its plans, its units, and the tables that people read."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from typing import TypeVar

import pyarrow as pa

from loco_core.errors import SpecError, StoreError
from orchestrator.spec import SweepSpec, check_compatible
from orchestrator.store import layout
from orchestrator.store.ahead import read_ahead
from orchestrator.store.blobs import Blobs, Put
from orchestrator.store.checksums import decode_table, encode_document, encode_table, sum_of
from orchestrator.store.documents import (
    D,
    InFlight,
    Manifest,
    Pinned,
    Record,
    SweepDocument,
    check_record,
    is_own_manifest,
    read_document,
)
from orchestrator.store.errors import REMEDY, DamagedFileError, MissingFileError
from orchestrator.store.keyed import derived_rows
from orchestrator.store.preflight import check_current
from orchestrator.store.ranges import RangedTable
from orchestrator.store.rows import checked_plan, checked_rows
from orchestrator.store.schemas import TABLES, described
from orchestrator.store.units import StrayUnitError, decode_rows, decode_unit, encode_unit

_log = logging.getLogger(__name__)
V = TypeVar("V")


class Store:
    """What is known of a sweep. All state is in the files: two stores on one root see the same."""

    def __init__(self, blobs: Blobs, marker: str | None = None) -> None:
        """Opens a results root, without reading or writing anything.

        Args:
            blobs: storage of its files.
            marker: of the run whose units are committed here, see `orchestrator.store.preflight`; None for its driver.
        """
        self.blobs, self._marker = blobs, marker

    def over(self, blobs: Blobs) -> Store:
        """Returns the same results seen through another storage.

        Args:
            blobs: storage of the same files.
        """
        return Store(blobs, self._marker)

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
        known = self.sweep_id() if old is not None else self._sweep_of_units()
        if known not in (None, sweep_id):
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
        for name in (*layout.parted(), *layout.DERIVED):
            path, empty = layout.part(name, 0), _without_rows(name)
            if self.blobs.put_if_absent(path, empty, attempt_id) == "lost":
                # Whoever reads the folder takes its columns from this file: one of an older version lacks some.
                known = decode_table(self.blobs.read(path), self._place(path)).column_names
                if not set(TABLES[name].names).issubset(known):
                    self.blobs.replace(path, empty)

    def sweep(self) -> SweepSpec | None:
        """Returns the spec that the results were last run with, or None in a new root."""
        found = self.document(layout.SWEEP, SweepDocument)
        return None if found is None else found.spec

    def sweep_id(self) -> str | None:
        """Returns the identity of the sweep, or None in a new root."""
        found = self.document(layout.SWEEP, SweepDocument)
        return None if found is None else found.sweep_id

    def _sweep_of_units(self) -> str | None:
        """Returns the sweep that committed units are of, where `sweep.json` was set aside and cannot tell."""
        for unit_id in sorted(self.committed())[:1]:
            for table in self.read_unit(unit_id).values():
                if table.num_rows and "sweep_id" in table.column_names:
                    return str(table["sweep_id"][0].as_py())
        return None

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
        paths = layout.numbers(self.blobs.list(layout.PLANS), layout.plan)
        read = {n: decode_table(self.blobs.read(path), self._place(path)) for n, path in paths.items()}
        return {n: checked_plan(table, self._place(paths[n])) for n, table in read.items()}

    def next_plan(self) -> int:
        """Returns the number of the next plan file: one that none has had, those included that are gone."""
        return self._plans_written(layout.numbers(self.blobs.list(layout.PLANS), layout.plan))

    def _plans_written(self, numbers: Iterable[int]) -> int:
        pinned = self.document(layout.RESOLVED, Pinned)
        return max(pinned.plans if pinned else 0, max(numbers, default=-1) + 1)

    def record_plans(self, count: int) -> None:
        """Notes how many plan files were written, so that the loss of the last one is noticed.

        Args:
            count: of them; not noted where it is not known yet what names stand for.
        """
        pinned = self.document(layout.RESOLVED, Pinned)
        if pinned is not None and pinned.plans < count:
            self.blobs.replace(layout.RESOLVED, encode_document({**pinned.model_dump(mode="json"), "plans": count}))

    def has_lost_plans(self) -> bool:
        """Tells whether a plan file was damaged and set aside, or is gone."""
        numbers = layout.numbers(self.blobs.list(layout.PLANS), layout.plan)
        if len(numbers) < self._plans_written(numbers) or (not numbers and self.committed()):
            return True
        prefix = f"{layout.QUARANTINE}/{layout.PLANS.replace('/', '.')}."
        return any(path.startswith(prefix) for path in self.blobs.list(layout.QUARANTINE))

    def commit_unit(self, unit_id: str, tables: Mapping[str, pa.Table], attempt_id: str) -> Put:
        """Commits the results of a unit, all or nothing. The first commit wins; a later one changes nothing.

        Args:
            unit_id: identity of the unit.
            tables: rows by table, see `orchestrator.store.units.encode_unit`.
            attempt_id: unique to this attempt at the unit.

        Raises:
            LeaseLostError: this is a worker's, and another run has begun on these results since.
            StoreError: the rows are not as they should be, or the root cannot be written.
        """
        if self._marker is not None:
            check_current(self.blobs, self._marker)
        return self.blobs.put_if_absent(layout.unit(unit_id), encode_unit(unit_id, tables), attempt_id)

    def committed(self) -> frozenset[str]:
        """Returns the ids of all committed units; one listing. Files of other names are nobody's units."""
        return frozenset(name for name in self.all_committed() if not layout.is_usage(name))

    def all_committed(self) -> frozenset[str]:
        """Returns the names of all that is committed as units are: those of ``usage`` that drivers wrote, too."""
        return frozenset(name for path in self.blobs.list(layout.UNITS) if (name := layout.unit_of(path)))

    def read_unit(self, unit_id: str) -> dict[str, pa.Table]:
        """Returns the rows of a committed unit by table.

        Raises:
            MissingFileError: it is not committed.
            DamagedFileError: its file is not what was written.
        """
        path = layout.unit(unit_id)
        return decode_unit(self.blobs.read(path), self._place(path), unit_id)

    def iter_units(
        self, unit_ids: Iterable[str], *, strays: set[str] | None = None
    ) -> Iterator[tuple[str, dict[str, pa.Table]]]:
        """Yields the rows of committed units in the given order; reads some at a time, ahead of need.

        Args:
            unit_ids: ids of the units.
            strays: takes the names of files that hold another unit than their name says, such as copies that somebody
                made, and that are passed over: for those who take whatever is there. None where each unit is meant.

        Raises:
            DamagedFileError: a file is not what was written, or holds another unit.
        """

        def read(unit_id: str) -> tuple[str, dict[str, pa.Table]] | None:
            return self._unless_stray(unit_id, lambda: (unit_id, self.read_unit(unit_id)), strays)

        def size(found: tuple[str, dict[str, pa.Table]] | None) -> int:
            return sum(table.nbytes for table in found[1].values() if len(table)) if found else 0

        return (found for found in read_ahead(read, unit_ids, size) if found is not None)

    def read_units(
        self,
        unit_ids: Iterable[str],
        table: str = "scores",
        columns: Sequence[str] | None = None,
        *,
        strays: set[str] | None = None,
    ) -> pa.Table:
        """Returns rows of one table of committed units, published or not, in the given order.

        Args:
            unit_ids: ids of the units.
            table: which.
            columns: those that are decoded; None is all.
            strays: see `iter_units`.

        Raises:
            DamagedFileError: a file is not what was written, or holds another unit.
        """

        def read(unit_id: str) -> pa.Table | None:
            path = layout.unit(unit_id)
            return self._unless_stray(
                unit_id,
                lambda: decode_rows(self.blobs.read(path), self._place(path), unit_id, table, columns),
                strays,
            )

        found = [rows for rows in read_ahead(read, unit_ids, _nbytes) if rows is not None]
        return _joined(table, found, columns)

    def _unless_stray(self, unit_id: str, read: Callable[[], V], strays: set[str] | None) -> V | None:
        try:
            return read()
        except StrayUnitError as error:
            if strays is None:
                raise
            _log.warning("passed over: %s", error)
            strays.add(unit_id)
            return None

    def manifests(self) -> dict[int, tuple[str, ...]]:
        """Returns the units of every part that was decided on, by its number.

        A manifest that names a unit of an earlier one, or another number than its own, is a copy that somebody made,
        and decides nothing.

        Raises:
            DamagedFileError: a manifest is not what was written.
        """
        paths = layout.numbers(self.blobs.list(layout.MANIFESTS), layout.manifest)
        found: dict[int, tuple[str, ...]] = {}
        seen: set[str] = set()
        for number, manifest in zip(paths, self._documents(paths.values(), Manifest), strict=True):
            if is_own_manifest(manifest, number, seen):
                found[number] = manifest.units
                seen.update(manifest.units)
        return found

    def records(self, manifests: Mapping[int, tuple[str, ...]] | None = None) -> dict[int, dict[str, str]]:
        """Returns the parts that are complete, by number: each file's sum by its path.

        Args:
            manifests: see `manifests`, where they are read already.

        Raises:
            DamagedFileError: a record, or a manifest, is not what was written.
        """
        paths = layout.numbers(self.blobs.list(layout.PUBLISHED), layout.published)
        manifests = self.manifests() if manifests is None else manifests
        wanted = {number: path for number, path in paths.items() if number in manifests}
        records = zip(wanted.items(), self._documents(wanted.values(), Record), strict=True)
        return {number: check_record(record, number, self._place(path)) for (number, path), record in records}

    def read(self, table: str) -> pa.Table:
        """Returns a table: of growing tables the published rows, of derived tables all.

        Raises:
            MissingFileError: a published file is missing.
            DamagedFileError: one of its files is not what was written.
        """
        found = read_ahead(lambda item: self._whole(table, *item), self._files(table).items(), _nbytes)
        return _joined(table, (rows for rows in found if rows is not None))

    def read_part(self, table: str, number: int) -> pa.Table:
        """Returns the rows of one published part of a growing table.

        Raises:
            MissingFileError: it is not published, or its file is gone.
            DamagedFileError: its file is not what was written.
        """
        path, record = layout.part(table, number), layout.published(number)
        files = check_record(read_document(self.blobs.read(record), self._place(record), Record), number, record)
        # A part without rows of a table has no file of it.
        rows = self._whole(table, path, files[path]) if path in files else None
        return _joined(table, [rows] if rows is not None else [])

    def read_columns(self, table: str, columns: Sequence[str]) -> pa.Table:
        """Returns some columns of what `read` returns, and reads no more than they take.

        Raises:
            MissingFileError: a published file is missing.
            DamagedFileError: one of its files is not readable, or not one of this project's.
        """
        if table in layout.DERIVED:
            # Small, and read whole to be compared with their sums.
            return self.read(table).select(list(columns))
        return _joined(table, read_ahead(lambda path: self._columns(path, columns), self._files(table)), columns)

    def part_files(self) -> dict[str, int]:
        """Returns the files of all tables that are named as parts with rows are, with their numbers; a listing each."""
        return {
            path: number
            for table in layout.parted()
            for number, path in layout.parts(table, self.blobs.list(layout.folder(table))).items()
            if number > 0
        }

    def _files(self, table: str) -> dict[str, str | None]:
        """Returns the files of a table that count; with their sums, if a record names them."""
        if table in layout.DERIVED:
            return {path: None for path in self.blobs.list(table) if layout.is_derived(path)}
        return {path: files[path] for n, files in self.records().items() if (path := layout.part(table, n)) in files}

    def _whole(self, table: str, path: str, expected: str | None) -> pa.Table | None:
        """Reads a file of a table; None of a derived one that went since it was listed."""
        place = self._place(path)
        if table in layout.DERIVED:
            found = self.blobs.read_versioned(path)
            return None if found is None else derived_rows(table, found.data, path, place)
        with self._expected(path):
            data = self.blobs.read(path)
        rows = decode_table(data, place)
        if expected not in (None, sum_of(data)):
            raise DamagedFileError(f"{place}: not the file that was published; {REMEDY}")
        return checked_rows(table, rows, place)

    def _columns(self, path: str, columns: Sequence[str]) -> pa.Table:
        with self._expected(path):
            return RangedTable(self.blobs, path).read(columns)

    @contextmanager
    def _expected(self, path: str) -> Iterator[None]:
        try:
            yield
        except MissingFileError as error:
            raise MissingFileError(
                f"{self._place(path)}: missing; `loco-sweep verify {self.root} --repair` makes it again from its units"
            ) from error

    def record_in_flight(self, attempts: Mapping[str, int]) -> None:
        """Notes which units are being worked on, with the attempt each is at, for the driver's successor."""
        self.blobs.replace(layout.IN_FLIGHT, encode_document({"attempts": dict(attempts)}))

    def in_flight(self) -> dict[str, int]:
        """Returns what the last driver noted; a damaged note counts as none, since it only counts attempts."""
        try:
            found = self.document(layout.IN_FLIGHT, InFlight)
        except DamagedFileError as error:
            _log.warning("attempts of the last run are not known: %s", error)
            return {}
        return dict(found.attempts) if found else {}

    def delta(self, path: str, expected: str) -> bytes:
        """Returns the weights of an edit, which a row of ``edits`` names.

        Args:
            path: as the row says.
            expected: their sum, as the row says.

        Raises:
            StoreError: the path is none that weights have.
            MissingFileError: they are gone.
            DamagedFileError: they are not those that were written.
        """
        if not layout.is_delta(path):
            raise StoreError(
                f"{self.root}/edits: a row names {path[:80]!r} as weights of an edit; expected "
                f"{layout.DELTAS}/NAME.safetensors; `loco-sweep verify {self.root} --repair` sets the table aside"
            )
        data = self.blobs.read(path)
        if sum_of(data) != expected:
            raise DamagedFileError(
                f"{self._place(path)} is not the file that was written; `loco-sweep verify {self.root} --repair` sets "
                "it aside, and the command that made it fits it again"
            )
        return data

    def quarantine(self, path: str) -> None:
        """Moves a file out of the way, under ``_meta/quarantine``; nothing is thrown away."""
        found = self.blobs.read_versioned(path)
        if found is not None:
            version = re.sub(r"[^A-Za-z0-9]", "", found.version)[:12]
            self.blobs.put_if_absent(layout.quarantined(path, version), found.data, found.version)
            self.blobs.delete(path)

    def document(self, path: str, kind: type[D]) -> D | None:
        """Returns what is in a document, or None where there is none.

        Raises:
            DamagedFileError: it is not what was written.
            NewerVersionError: it is a newer version's.
        """
        found = self.blobs.read_versioned(path)
        return None if found is None else read_document(found.data, self._place(path), kind)

    def _documents(self, paths: Iterable[str], kind: type[D]) -> list[D]:
        """Reads documents that are there, a few at a time."""
        return list(read_ahead(lambda path: read_document(self.blobs.read(path), self._place(path), kind), paths))

    def _place(self, path: str) -> str:
        return f"{self.root}/{path}"


@cache
def _without_rows(table: str) -> bytes:
    return encode_table(described(table).empty_table())


def _joined(table: str, parts: Iterable[pa.Table], columns: Sequence[str] | None = None) -> pa.Table:
    empty = TABLES[table].empty_table()
    # Files of an older version lack columns that were added since; those are null.
    none = empty if columns is None else empty.select(list(columns))
    return pa.concat_tables([none, *parts], promote_options="default")


def _nbytes(rows: pa.Table | None) -> int:
    return 0 if rows is None else rows.nbytes
