"""Finds damaged files, files that are missing, and files that are nobody's: reads all, changes nothing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import pyarrow as pa

from loco_core.errors import StoreError
from loco_core.tables import distinct
from orchestrator.store import layout
from orchestrator.store.blobs import Kind
from orchestrator.store.checksums import check_page, decode_document, decode_table, sum_of
from orchestrator.store.damage import LOST_PLANS, STRAY, UNPUBLISHED, Damage, Examination, Survey, damages
from orchestrator.store.derived import lost_files
from orchestrator.store.documents import (
    Control,
    Document,
    InFlight,
    Manifest,
    Pinned,
    Record,
    SweepDocument,
    TableFiles,
    check_record,
    is_own_manifest,
    read_document,
)
from orchestrator.store.errors import DamagedFileError, MissingFileError, NewerVersionError
from orchestrator.store.keyed import derived_rows
from orchestrator.store.rows import checked_plan, checked_rows
from orchestrator.store.schemas import TABLES
from orchestrator.store.store import Store
from orchestrator.store.units import StrayUnitError, decode_unit

_READERS = 8
_NO_FILE = "no file is there, but something else"
_DOCUMENTS: Mapping[str, type[Document] | None] = {
    layout.SWEEP: SweepDocument, layout.RESOLVED: Pinned, layout.IN_FLIGHT: InFlight, layout.LEASE: None,
    layout.PROGRESS: None, layout.TABLE_FILES: TableFiles, layout.CONTROL: Control,
}  # fmt: skip
Tables = dict[str, pa.Table]


def verify(store: Store) -> list[Damage]:
    """Reads every file of a results root and compares it with its sum.

    Args:
        store: the results.

    Returns:
        What is damaged, by path; empty if all is well.

    Raises:
        StoreError: a file cannot be read, or is a newer version's.
    """
    return damages(look(store))


def examine(store: Store) -> Examination:
    """Does what `verify` does, and tells what else lies there.

    Raises:
        StoreError: a file cannot be read, or is a newer version's.
    """
    survey = look(store)
    return Examination(tuple(damages(survey)), survey.foreign, tuple(survey.uncovered))


def look(store: Store) -> Survey:
    """Reads every file once and says what is wrong with it.

    Raises:
        StoreError: a file cannot be read, or is a newer version's.
    """
    # Before manifests and plans are listed: what is written meanwhile is then unfinished, not foreign.
    survey = Survey(dict(store.blobs.walk("")))
    for path, kind in survey.entries.items():
        if kind != "file" and _expected_file(store, path, kind):
            survey.immovable[path] = _NO_FILE
    _look_at_manifests(store, survey)
    held = _look_at_units(store, survey)
    _look_at_parts(store, survey, held)
    _look_at_others(store, survey, held)
    _name_foreign(survey)
    return survey


@dataclass
class _Held:
    """What units say of other files.

    Attributes:
        planned: units that hold cells, which a plan file must name.
        deltas: sums of weights, by path.
        fits: rows of edits as they were fitted, by unit, edit, scope and attribute.
    """

    planned: set[str] = field(default_factory=set)
    deltas: dict[str, str] = field(default_factory=dict)
    fits: dict[tuple[str, str, str, str], dict[str, Any]] = field(default_factory=dict)

    def note(self, unit_id: str, tables: Tables) -> None:
        cells = (tables[name]["cell_id"] for name in ("scores", "failures"))
        if any(len(column) > column.null_count for column in cells):
            self.planned.add(unit_id)
        for row in tables["fits"].to_pylist():
            self.fits[unit_id, row["edit_id"], row["scope"], row["attribute"]] = row
            if row["delta_path"] and layout.is_delta(row["delta_path"]):
                self.deltas[row["delta_path"]] = row["delta_sha256"]


def _expected_file(store: Store, path: str, kind: Kind) -> bool:
    """Tells whether something that is no file lies where a file should; a link to a file of this root is one."""
    if not layout.is_own(path):
        return False
    try:
        return kind == "folder" or not store.blobs.exists(path)
    except StoreError:
        return True


def _files(survey: Survey, folder: str) -> list[str]:
    return [
        path for path in survey.entries
        if path.rpartition("/")[0] == folder and survey.entries[path] != "folder" and path not in survey.immovable
    ]  # fmt: skip


def _look_at_manifests(store: Store, survey: Survey) -> None:
    blobs = store.blobs
    records = layout.numbers(_files(survey, layout.PUBLISHED), layout.published)
    copies, seen = set[int](), set[str]()
    for number, path in layout.numbers(blobs.list(layout.MANIFESTS), layout.manifest).items():
        try:
            manifest = read_document(blobs.read(path), path, Manifest)
        except (DamagedFileError, MissingFileError) as error:
            survey.bad_manifests[number] = _words(error, path)
            continue
        if is_own_manifest(manifest, number, seen):
            survey.manifests[number] = manifest.units
            seen.update(manifest.units)
        else:
            copies.add(number)
            survey.bad_others[path] = "names units that another manifest names, as a copy does"
    for number in records.keys() & copies:
        survey.bad_others[records.pop(number)] = "of a manifest that is a copy"
    for number in records.keys() - survey.manifests.keys() - survey.bad_manifests.keys():
        survey.bad_manifests[number] = "missing"
    survey.published = frozenset(records)


def _look_at_units(store: Store, survey: Survey) -> _Held:
    """Reads the units that no manifest names; those of parts are read with their parts."""
    held = _Held()
    named = {unit for units in survey.manifests.values() for unit in units}
    there = [unit for path in _files(survey, layout.UNITS) if (unit := layout.unit_of(path)) is not None]
    for unit_id, tables in _units(store, survey, sorted(set(there) - named)):
        held.note(unit_id, tables)
    return held


def _units(store: Store, survey: Survey, units: Iterable[str]) -> Iterable[tuple[str, Tables]]:
    """Yields the units that are sound, in the given order, and takes note of the others."""

    def read(unit_id: str) -> Tables | str:
        path = layout.unit(unit_id)
        if path in survey.immovable:
            return "missing"
        try:
            return decode_unit(store.blobs.read(path), path, unit_id)
        except StrayUnitError:
            return STRAY
        except (DamagedFileError, MissingFileError) as error:
            return _words(error, path)

    ids = list(units)
    with ThreadPoolExecutor(_READERS) as pool:
        for start in range(0, len(ids), _READERS):
            batch = ids[start : start + _READERS]
            for unit_id, found in zip(batch, pool.map(read, batch), strict=True):
                if isinstance(found, str):
                    survey.bad_units[unit_id] = found
                else:
                    yield unit_id, found


def _look_at_parts(store: Store, survey: Survey, held: _Held) -> None:
    """Compares each part with its sum, and with the rows of its units: a sum shows no row that somebody made up."""
    records = {n: layout.published(n) for n in survey.published if n not in survey.bad_manifests}
    for number, units in survey.manifests.items():
        expected: dict[str, list[pa.Table]] = {name: [] for name in layout.parted()}
        for unit_id, tables in _units(store, survey, units):
            held.note(unit_id, tables)
            for name, table in tables.items():
                expected[name].append(table)
        if number not in records:
            path = layout.published(number)
            if number < max(survey.manifests) and path not in survey.immovable and not store.blobs.exists(path):
                # Only the last part can be unfinished: one is completed before the next is decided on.
                survey.bad_parts[number] = {path: "missing"}
            continue
        try:
            read = read_document(store.blobs.read(records[number]), records[number], Record)
            survey.sums[number] = sums = check_record(read, number, records[number])
        except (DamagedFileError, MissingFileError) as error:
            survey.bad_parts[number] = {records[number]: _words(error, records[number])}
            continue
        whole = not any(unit in survey.bad_units for unit in units)
        problems = {}
        for name in layout.parted():
            path = layout.part(name, number)
            rows = pa.concat_tables([TABLES[name].empty_table(), *expected[name]]) if whole else None
            if path in sums:
                problems[path] = _part_problem(store, survey, path, sums[path], rows)
            elif rows is not None and rows.num_rows:
                problems[path] = "not published, though its units have rows for it"
        if any(problems.values()):
            survey.bad_parts[number] = {path: problem for path, problem in problems.items() if problem}


def _part_problem(store: Store, survey: Survey, path: str, expected: str, rows: pa.Table | None) -> str:
    """Returns what is wrong with a file of a part; ``rows`` are those of its units, None where they are not known."""
    if survey.entries.get(path, "file") == "folder" or path in survey.immovable:
        return "missing"
    try:
        data = store.blobs.read(path)
    except MissingFileError:
        return "missing"
    try:
        there = decode_table(data, path)
    except DamagedFileError as error:
        return _words(error, path)
    if sum_of(data) != expected:
        return "not the file that was published"
    return _row_problem(store, path, there, rows) if rows is not None else ""


def _row_problem(store: Store, path: str, there: pa.Table, rows: pa.Table) -> str:
    unknown = set(there.column_names).difference(rows.column_names)
    if unknown and not unknown.intersection(*(schema.names for schema in TABLES.values())):
        raise NewerVersionError(
            f"{store.root}/{path}: has a column that this version does not know ({min(unknown)[:80]!r}): it was made "
            "by a newer version of loco-sweep; use that version, here too"
        )
    # An older version wrote fewer columns. What columns are said to mean is not compared, and units hold no NaN.
    same = not unknown and there.equals(rows.select([name for name in there.column_names if name in rows.column_names]))
    return "" if same else "its rows are not those of its units"


def _look_at_others(store: Store, survey: Survey, held: _Held) -> None:
    """Looks at plans, documents, derived tables, weights and the page, and at files that nobody published."""
    blobs, bad = store.blobs, survey.bad_others
    planned: set[str] = set()

    def plan(data: bytes, path: str) -> None:
        planned.update(distinct(checked_plan(decode_table(data, path), path), "unit_id"))

    plans = layout.numbers(blobs.list(layout.PLANS), layout.plan)
    for path in plans.values():
        _note(bad, path, _problem(store, path, plan))
    for path, kind in _DOCUMENTS.items():
        if _is_there(survey, path):
            decode = decode_document if kind is None else _document(kind)
            _note(bad, path, _problem(store, path, decode))
    prefix = f"{layout.QUARANTINE}/{layout.PLANS.replace('/', '.')}."
    known = any(path in bad for path in plans.values()) or any(path.startswith(prefix) for path in survey.entries)
    lost = held.planned - planned
    if layout.SWEEP not in bad and _is_there(survey, layout.SWEEP) and lost and not known:
        count = len(lost)
        bad[LOST_PLANS] = f"a plan file is gone: {count} committed units are in none"
    begun = layout.SWEEP not in bad and _is_there(survey, layout.SWEEP) and held.planned
    if begun and layout.RESOLVED not in survey.entries and not blobs.exists(layout.RESOLVED):
        bad[layout.RESOLVED] = "missing"
    if _is_there(survey, layout.MARKER):
        _note(bad, layout.MARKER, _problem(store, layout.MARKER, _check_marker))
    _look_at_tables(store, survey)
    _look_at_deltas(store, survey, held)
    if _is_there(survey, layout.REPORT):
        try:
            if not check_page(blobs.read(layout.REPORT), layout.REPORT):
                survey.uncovered.append(
                    f"{layout.REPORT}, which an earlier version wrote; `loco-sweep report` renews it"
                )
        except (DamagedFileError, MissingFileError) as error:
            bad[layout.REPORT] = _words(error, layout.REPORT)


def _look_at_tables(store: Store, survey: Survey) -> None:
    bad = survey.bad_others
    known = {path for sums in survey.sums.values() for path in sums}
    # Those that are being written, or whose part is made again.
    unsettled = (survey.manifests.keys() | survey.bad_manifests.keys()) - survey.sums.keys() | survey.bad_parts.keys()
    known |= {layout.part(name, number) for name in layout.parted() for number in unsettled}
    for name in layout.parted():
        for number, path in layout.parts(name, _files(survey, layout.folder(name))).items():
            if number == 0:
                _note(bad, path, _problem(store, path, partial(_rows, name)))
            elif path not in known:
                bad[path] = UNPUBLISHED
    for name in layout.DERIVED:
        for path in filter(layout.is_derived, _files(survey, name)):
            _note(bad, path, _problem(store, path, partial(_derived, name)))
        schema = layout.part(name, 0)
        if survey.entries.get(name) == "folder" and not _is_there(survey, schema) and _is_gone(store, survey, schema):
            bad[schema] = "missing"
    if layout.TABLE_FILES not in bad and layout.TABLE_FILES not in survey.immovable:
        bad |= {path: "missing" for path in lost_files(store) if path not in survey.immovable}


def _look_at_deltas(store: Store, survey: Survey, held: _Held) -> None:
    """Looks at weights: those that ``edits`` names must be there, those that a fit wrote be what it wrote."""
    bad, named, outside = survey.bad_others, dict[str, str](), list[str]()
    for file in _files(survey, "edits"):
        if not layout.is_derived(file) or file in bad:
            continue
        try:
            rows = _derived("edits", store.blobs.read(file), file).to_pylist()
        except MissingFileError:
            continue
        mine = {row["delta_path"]: row["delta_sha256"] for row in rows if row["delta_path"]}
        wrong = sorted(path for path in mine if not layout.is_delta(path))
        if wrong:
            # Not a word of it is to be trusted, and no file that it names to be touched.
            bad[file] = f"names {wrong[0][:80]!r} as weights of an edit, which is no place in {layout.DELTAS}"
            outside += wrong
            continue
        named |= mine
        if any(_is_made_up(row, held) for row in rows):
            bad[file] = "has rows that no fit gave"
    for path, expected in (held.deltas | named).items():
        if _is_there(survey, path):
            if sum_of(store.blobs.read(path)) != expected:
                bad[path] = "not the file that was written"
        elif path in named and _is_gone(store, survey, path):
            bad[path] = "missing"
    for path in _files(survey, layout.DELTAS):
        if layout.is_delta(path) and path not in held.deltas | named and not outside:
            survey.foreign[path] = "weights that no edit names"


def _is_made_up(row: Mapping[str, Any], held: _Held) -> bool:
    """Tells whether a row of ``edits`` is not what its unit says, but for what is decided when all is measured."""
    fitted = held.fits.get((row["unit_id"], row["edit_id"], row["scope"], row["attribute"]))
    if fitted is None:
        # Of a unit that is damaged or gone nothing is known.
        return any(unit == row["unit_id"] for unit, *_ in held.fits)
    return any(row[name] != fitted[name] for name in row if name not in ("chosen", "chosen_by", "localization"))


def _name_foreign(survey: Survey) -> None:
    elsewhere: Counter[str] = Counter()
    for path, kind in survey.entries.items():
        top = path.partition("/")[0]
        folder = "/".join(path.split("/")[:2])
        if kind == "folder" or layout.is_own(path) or path in survey.immovable:
            continue
        if folder == "_meta/staging" and path.endswith(".lock"):
            continue
        if folder in (layout.QUARANTINE, "_meta/staging") or path.startswith("_meta/probe-"):
            elsewhere[folder if folder == layout.QUARANTINE else "_meta/staging"] += 1
        elif top not in layout.folders() and "/" in path:
            survey.foreign[f"{top}/"] = "a folder that is not of loco-sweep"
        elif layout.is_read_with(path) and kind == "file":
            survey.bad_others[path] = UNPUBLISHED
        else:
            survey.foreign[path] = "not written by loco-sweep"
    for folder, count in elsewhere.items():
        what = (
            "was set aside" if folder == layout.QUARANTINE else "is being written, or was by a driver that was killed"
        )
        survey.uncovered.append(f"{folder} ({count} files): what {what}")


def _rows(name: str, data: bytes, path: str) -> pa.Table:
    return checked_rows(name, decode_table(data, path), path)


def _derived(name: str, data: bytes, path: str) -> pa.Table:
    return derived_rows(name, data, path, path)


def _document(kind: type[Document]) -> Callable[[bytes, str], object]:
    return lambda data, path: read_document(data, path, kind)


def _check_marker(data: bytes, path: str) -> object:
    # An earlier version wrote 32 digits and no sum; every run writes it anew.
    if len(data) == 32 and all(digit in b"0123456789abcdef" for digit in data):
        return None
    return decode_document(data, path)


def _is_there(survey: Survey, path: str) -> bool:
    return path in survey.entries and survey.entries[path] != "folder" and path not in survey.immovable


def _is_gone(store: Store, survey: Survey, path: str) -> bool:
    """Tells whether a file is missing; a driver at work may have written it since the files were listed."""
    return path not in survey.immovable and not store.blobs.exists(path)


def _note(bad: dict[str, str], path: str, problem: str) -> None:
    if problem:
        bad[path] = problem


def _problem(store: Store, path: str, decode: Callable[[bytes, str], object]) -> str:
    """Returns what is wrong with a file, or an empty text; a storage that fails is no damage, and is raised."""
    try:
        decode(store.blobs.read(path), path)
    except (DamagedFileError, MissingFileError) as error:
        return _words(error, path)
    return ""


def _words(error: StoreError, path: str) -> str:
    if isinstance(error, MissingFileError):
        return "missing"
    return str(error).removeprefix(f"{path}: ").partition(";")[0]
