"""The index of kept images, read part by part without the images, and one image when it is asked for."""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from loco_core.editors import named
from loco_core.errors import ViewError
from loco_core.tables import in_order, joined
from orchestrator.store import DamagedFileError, MissingFileError, Store, layout
from orchestrator.store.ranges import RangedTable

_log = logging.getLogger(__name__)

CONTROLS = ("before", "edited", "clean", "window", "all_sites", "donor", "identity", "complement", "random")
"""Kinds of images in the order of a page."""
_LABELS = ("model", "attribute", "prompt", "control", "window_start", "window_size", "seed")
_INTERVENTION = ("part", "step_start", "step_end", "tokens", "guidance_half", "pooled")
_IDS = ("unit_id", "image_id")
_SCORED = (*_IDS, *_LABELS, *_INTERVENTION, "site_indices")
_INDEX_COLUMNS: list[tuple[str, pa.DataType]] = [
    ("model", pa.string()), ("attribute", pa.string()), ("prompt", pa.string()), ("seed", pa.int64()),
    ("rank", pa.int8()), ("control", pa.string()), ("intervention", pa.string()), ("window_size", pa.int32()),
    ("window_start", pa.int32()), ("edit_id", pa.string()), ("prompt_role", pa.string()),
    ("site_indices", pa.list_(pa.int32())), ("file", pa.string()), ("row", pa.int64()),
]  # fmt: skip
INDEX = pa.schema(_INDEX_COLUMNS)
"""Columns of the index; a part's seal and a row in it name an image for good."""
_ORDER = tuple(f.name for f in INDEX if f.name not in ("control", "site_indices"))
_CACHE_BYTES = 64 * 2**20
_SHOWN_OF_SCORES = (
    "donor", "site_indices", *_INTERVENTION, "clip_score", "clip_score_donor", "margin_clean", "image_distance",
    "status",
)  # fmt: skip


@dataclass(frozen=True)
class Snapshot:
    """What the results held at one moment.

    Attributes:
        index: one row a picture and label, in the order of pages; see `INDEX`.
        edits: what made an edit, by its id.
        problems: files that cannot be read, in sentences.
    """

    index: pa.Table
    edits: dict[str, str]
    problems: tuple[str, ...]


@dataclass(frozen=True)
class _Part:
    number: int
    images: RangedTable
    index: pa.Table


@dataclass
class _Cache:
    """The images of a few row groups, the last used last."""

    groups: OrderedDict[tuple[str, int], pa.Array[Any]] = field(default_factory=OrderedDict)

    def get(self, key: tuple[str, int]) -> pa.Array[Any] | None:
        found = self.groups.get(key)
        if found is not None:
            self.groups.move_to_end(key)
        return found

    def put(self, key: tuple[str, int], images: pa.Array[Any]) -> None:
        self.groups[key] = images
        while len(self.groups) > 1 and sum(group.nbytes for group in self.groups.values()) > _CACHE_BYTES:
            self.groups.popitem(last=False)


class Catalogue:
    """The kept images of one results root; may be asked from several threads."""

    def __init__(self, store: Store) -> None:
        """Starts empty; `snapshot` reads.

        Args:
            store: the results.
        """
        self._store = store
        self._lock, self._cache_lock = threading.Lock(), threading.Lock()
        self._parts: dict[str, _Part] = {}
        self._snapshot = Snapshot(INDEX.empty_table(), {}, ())
        self._cache = _Cache()
        self._seen: tuple[tuple[int, ...], tuple[int, ...]] | None = None
        self._named: dict[str, int] = {}

    def snapshot(self) -> Snapshot:
        """Returns what is published by now; reads only parts that it has not read.

        Raises:
            StoreError: the results cannot be listed.
        """
        with self._lock:
            known, problems = self._parts, list[str]()
            wanted = self._published(problems)
            self._parts = {path: part for path, part in known.items() if path in wanted}
            for path in sorted(wanted.keys() - known.keys()):
                try:
                    self._parts[path] = self._read(path, wanted[path])
                except MissingFileError:
                    _log.info("%s was taken away while it was read", path)
                except DamagedFileError as error:
                    problems.append(str(error))
            if self._parts.keys() != known.keys() or tuple(problems) != self._snapshot.problems:
                index = pa.concat_tables([INDEX.empty_table(), *(part.index for part in self._parts.values())])
                self._snapshot = Snapshot(in_order(index, _ORDER), self._edits(), tuple(problems))
            return self._snapshot

    def _published(self, problems: list[str]) -> dict[str, int]:
        """Returns the parts that records name, with their numbers: others are nobody's, or are being written."""
        blobs = self._store.blobs
        there = layout.parts("images", blobs.list(layout.folder("images")))
        complete = layout.numbers(blobs.list(layout.PUBLISHED), layout.published)
        seen = (tuple(there), tuple(complete))
        if seen != self._seen:
            try:
                records = self._store.records()
            except (DamagedFileError, MissingFileError) as error:
                problems.append(str(error))
                records = {number: {} for number in complete}
            self._named = {path: n for n, files in records.items() if (path := layout.part("images", n)) in files}
            self._seen = seen if not problems else None
        problems += [f"{self._store.root}/{path}: missing" for path in self._named if path not in there.values()]
        return {path: number for path, number in self._named.items() if path in there.values()}

    def image(self, file: str, row: int) -> bytes:
        """Returns the bytes of one image.

        Args:
            file: seal of its part.
            row: its row there.

        Raises:
            ViewError: there is no such image.
            StoreError: it cannot be read.
        """
        part = self._part(file, row)
        group, at = part.images.group_of(row)
        with self._cache_lock:
            images = self._cache.get((file, group))
            if images is None:
                images = pc.struct_field(part.images.read(["image.bytes"], group)["image"].combine_chunks(), "bytes")
                self._cache.put((file, group), images)
        return bytes(images[at].as_py())

    def details(self, file: str, row: int) -> dict[str, Any]:
        """Returns all columns of one image but the image itself, and what its score adds.

        Args:
            file: seal of its part.
            row: its row there.

        Raises:
            ViewError: there is no such image.
            StoreError: it cannot be read.
        """
        part = self._part(file, row)
        group, at = part.images.group_of(row)
        table = part.images.read([*_LABELS, "edit_id", "prompt_role", *_IDS, "cell_id"], group)
        found: dict[str, Any] = table.slice(at, 1).to_pylist()[0]
        scores = self._scores(part.number, (*_IDS, *_SHOWN_OF_SCORES))
        if scores is not None:
            here = pc.and_(*(pc.equal(scores[name], found[name]) for name in _IDS))
            rows = scores.filter(here).slice(0, 1).select(_SHOWN_OF_SCORES).to_pylist()
            found |= rows[0] if rows else {}
        last = {name: found.pop(name) for name in (*_IDS, "cell_id")}
        return {name: value for name, value in (found | last).items() if value is not None}

    def _part(self, file: str, row: int) -> _Part:
        part = next((part for part in list(self._parts.values()) if part.images.seal == file), None)
        if part is None or not 0 <= row < part.images.num_rows:
            raise ViewError("no such image; reload the page")
        return part

    def _read(self, path: str, number: int) -> _Part:
        images = RangedTable(self._store.blobs, path)
        own = images.read([*_IDS, *_LABELS, "edit_id", "prompt_role"])
        own = own.append_column("row", pa.array(range(own.num_rows), pa.int64()))
        scores = self._scores(number, _SCORED)
        tables = [own] if scores is None else _labelled(own, scores)
        return _Part(number, images, pa.concat_tables(_indexed(table, images.seal) for table in tables))

    def _scores(self, number: int, columns: tuple[str, ...]) -> pa.Table | None:
        """Returns columns of the scores published with a part, or None where there are none."""
        try:
            return RangedTable(self._store.blobs, layout.part("scores", number)).read(columns)
        except MissingFileError:
            return None
        except DamagedFileError as error:
            _log.warning("images are shown without their scores: %s", error)
            return None

    def _edits(self) -> dict[str, str]:
        try:
            rows = self._store.read("edits").select(["edit_id", "editor", "targets", "scope"]).to_pylist()
        except DamagedFileError as error:
            _log.warning("editors of edits are not known: %s", error)
            return {}
        return {
            row["edit_id"]: f"{named(row['editor'], row['targets'])}, {str(row['scope']).replace('_', ' ')}"
            for row in rows
        }


def _labelled(own: pa.Table, scores: pa.Table) -> list[pa.Table]:
    """Returns the images under every label that their scores have, and those without scores under their own.

    An image that stands for two cells of a unit, such as the complement of a window that is a window itself, is kept
    once.
    """
    keys, wanted = _key(own), _key(scores)
    at = pc.index_in(wanted, value_set=keys)
    scored = scores.filter(pc.is_valid(at)).append_column("row", own["row"].take(at.drop_null()))
    return [scored, own.filter(pc.invert(pc.is_in(keys, value_set=wanted)))]


def _key(table: pa.Table) -> pa.ChunkedArray[Any]:
    return joined(*(table[name] for name in _IDS), by=" ")


def _indexed(table: pa.Table, seal: str) -> pa.Table:
    rank = pc.index_in(table["control"], value_set=pa.array(CONTROLS)).cast(pa.int8())
    made: dict[str, Any] = {
        "rank": pc.fill_null(rank, pa.scalar(len(CONTROLS), pa.int8())),
        "intervention": _intervention(table),
        "file": pa.repeat(seal, table.num_rows),
    }
    columns = [
        made[name] if name in made else table[name] if name in table.column_names else _nulls(table, kind)
        for name, kind in zip(INDEX.names, INDEX.types, strict=True)
    ]
    return pa.table(columns, schema=INDEX)


def _nulls(table: pa.Table, kind: pa.DataType) -> pa.Array[Any]:
    return pa.array([None] * table.num_rows, kind)


def _intervention(table: pa.Table) -> Any:
    """Returns the options of the interventions in words; of clean and donor images, which have none, null."""
    if "part" not in table.column_names:
        return pa.nulls(table.num_rows, pa.string())
    part, start, end, tokens, half, pooled = (table[name].cast(pa.string()) for name in _INTERVENTION)
    steps, positions = joined("steps", joined(start, end, by="-"), by=" "), joined(tokens, "tokens", by=" ")
    words = joined(part, steps, positions, half, by=", ")
    words = pc.if_else(pc.equal(pooled, pa.scalar("donor")), joined(words, "pooled donor", by=", "), words)
    has_none = pc.is_in(table["control"], value_set=pa.array(["clean", "donor", "identity"]))
    return pc.if_else(has_none, pa.scalar(None, pa.string()), words)
