"""The index of kept images, read part by part without the images, and one image when it is asked for."""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from loco_core.editing.base import named
from loco_core.errors import ViewError
from orchestrator.store import DamagedFileError, MissingFileError, Store, layout
from orchestrator.store.ranges import RangedTable
from orchestrator.viewing.pictures import (
    DONORS,
    EVALUATED,
    OWN,
    SCORED,
    SHOWN_OF_EVALUATIONS,
    SHOWN_OF_SCORES,
    details_of,
    donors_of,
    index_of,
)

_log = logging.getLogger(__name__)

_CACHE_BYTES = 64 * 2**20
_SHOWN_OF_EDITS = (
    "edit_id",
    "editor",
    "targets",
    "scope",
    "lambda",
    "neurons",
    "tokens",
    "chosen",
    "attributes",
    "step",
)
_SHOWN_OF_LOCALIZATIONS = (
    "model", "attribute", "outcome", "window_start", "window_size", "best_start", "best_size", "effect", "ci_low",
    "ci_high", "threshold", "compared",
)  # fmt: skip


@dataclass(frozen=True, eq=False)
class Part:
    """Pictures that were published together; never changes.

    Attributes:
        number: its number in the results.
        images: the file that holds them.
        index: one row per picture and label; see `orchestrator.viewing.pictures.INDEX`.
        donors: sum and count of the drops of its donor pictures, by model and attribute.
    """

    number: int
    images: RangedTable
    index: pa.Table
    donors: pa.Table


@dataclass(frozen=True)
class Snapshot:
    """What the results held at one moment.

    Attributes:
        parts: what was published, in the order of parts.
        edits: editor and settings of each edit, by its id, and whether it was chosen.
        localizations: rows of the localizer that edits follow.
        problems: files that cannot be read, in sentences.
    """

    parts: tuple[Part, ...]
    edits: dict[str, tuple[str, bool]]
    localizations: tuple[dict[str, Any], ...]
    problems: tuple[str, ...]

    def full_effects(self) -> dict[tuple[str, str], float]:
        """Returns the mean drop of the donor pictures, of which effects are shares, by model and attribute."""
        donors = pa.concat_tables([DONORS.empty_table(), *(part.donors for part in self.parts)])
        sums = donors.group_by(["model", "attribute"]).aggregate([("sum", "sum"), ("count", "sum")]).to_pylist()
        return {(row["model"], row["attribute"]): row["sum_sum"] / row["count_sum"] for row in sums if row["count_sum"]}


@dataclass(frozen=True)
class _Derived:
    """What was read of tables that are replaced as a whole, and of which files."""

    key: tuple[str, ...]
    edits: dict[str, tuple[str, bool]]
    localizations: tuple[dict[str, Any], ...]
    problems: tuple[str, ...]


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
        self._parts: dict[str, Part] = {}
        self._cache = _Cache()
        self._seen: tuple[tuple[int, ...], tuple[int, ...]] | None = None
        self._named: dict[str, int] = {}
        self._derived = _Derived((), {}, (), ())

    def snapshot(self, *, anew: bool = True) -> Snapshot:
        """Returns what is published by now; reads only parts that it has not read.

        Args:
            anew: whether edits and localizations are read even if no file was added since they were read.

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
            parts = sorted(self._parts.values(), key=lambda part: part.number)
            blobs = self._store.blobs
            key = (*(part.images.seal for part in parts), *blobs.list("edits"), *blobs.list("localizations"))
            if anew or key != self._derived.key:
                self._derived = self._read_derived(key)
            derived = self._derived
            problems += derived.problems
            return Snapshot(tuple(parts), derived.edits, derived.localizations, tuple(problems))

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

    def details(self, file: str, rows: Sequence[int]) -> list[dict[str, Any]]:
        """Returns all columns of some images but the images themselves, and what was measured of them.

        Args:
            file: seal of their part.
            rows: their rows there.

        Raises:
            ViewError: there is no such image.
            StoreError: it cannot be read.
        """
        part = self._part(file, max(rows))
        own = part.images.read(OWN).take(pa.array(rows, pa.int64()))
        scores = self._beside("scores", part.number, SHOWN_OF_SCORES)
        return details_of(own, scores, self._beside("evaluations", part.number, SHOWN_OF_EVALUATIONS))

    def holds(self, file: str) -> bool:
        """Tells whether a part with this seal is among those that were read."""
        return any(part.images.seal == file for part in list(self._parts.values()))

    def _part(self, file: str, row: int) -> Part:
        part = next((part for part in list(self._parts.values()) if part.images.seal == file), None)
        if part is None or not 0 <= row < part.images.num_rows:
            raise ViewError("no such image; reload the page")
        return part

    def _read(self, path: str, number: int) -> Part:
        images = RangedTable(self._store.blobs, path)
        scores = self._beside("scores", number, SCORED)
        index = index_of(images.read(OWN), scores, self._beside("evaluations", number, EVALUATED))
        return Part(number, images, index, donors_of(scores))

    def _beside(self, table: str, number: int, columns: tuple[str, ...]) -> pa.Table | None:
        """Returns columns of another table's part of the same number, or None where there is none."""
        try:
            return RangedTable(self._store.blobs, layout.part(table, number)).read(columns)
        except MissingFileError:
            return None
        except DamagedFileError as error:
            _log.warning("images are shown without what was measured of them: %s", error)
            return None

    def _read_derived(self, key: tuple[str, ...]) -> _Derived:
        problems = list[str]()

        def rows(table: str, columns: Sequence[str]) -> list[dict[str, Any]]:
            try:
                found: list[dict[str, Any]] = self._store.read(table).select(columns).to_pylist()
            except (DamagedFileError, MissingFileError) as error:
                problems.append(str(error))
                return []
            return found

        return _Derived(
            key,
            {row["edit_id"]: (_edit(row), bool(row["chosen"])) for row in rows("edits", _SHOWN_OF_EDITS)},
            tuple(row for row in rows("localizations", _SHOWN_OF_LOCALIZATIONS) if not row.pop("compared")),
            tuple(problems),
        )


def _edit(row: dict[str, Any]) -> str:
    strength = f", λ {row['lambda']:g}" if row["lambda"] is not None else ""
    tokens = f", {row['tokens']}" if row["tokens"] else ""
    neurons = f", {row['neurons']} neurons" if row["neurons"] is not None else ""
    between, after = (" + ", "") if row["step"] is None else (" > ", f", step {row['step']}")
    names = f" ({between.join(row['attributes'])}{after})" if row["attributes"] else ""
    scope = str(row["scope"]).replace("_", " ") + names
    return f"{named(row['editor'], row['targets'])}, {scope}{strength}{neurons}{tokens}"
