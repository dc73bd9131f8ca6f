"""The viewer as a folder of files that any file server can publish: the page, what it shows, and pictures."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa

from loco_core.errors import ViewError
from loco_core.tables import distinct
from orchestrator.store import Store
from orchestrator.store.layout import REPORT
from orchestrator.viewing.catalogue import Part, Snapshot
from orchestrator.viewing.index import Shown, encode_index, shown
from orchestrator.viewing.page import ASSETS, asset, in_words, render

MARKER = ".loco-sweep-view.json"
"""File that names all files of a bundle: only these are ever replaced."""


@dataclass(frozen=True)
class Bundle:
    """What was written.

    Attributes:
        page: the page to open.
        pictures: number of pictures in it.
        kept: number of pictures that the results hold.
        bytes: size of the folder.
    """

    page: Path
    pictures: int
    kept: int
    bytes: int


def write_bundle(stores: Sequence[Store], folder: Path, most: int) -> Bundle:
    """Writes the viewer of results into a folder; an earlier bundle there is replaced as a whole.

    Args:
        stores: the results.
        folder: a folder that is empty, not there, or holds nothing but a bundle.
        most: number of pictures to keep at most: of every model and attribute the first prompts and seeds, each with
            all its pictures.

    Raises:
        ViewError: the folder holds something else, or there is no picture to show.
        StoreError: the results cannot be read, or are damaged.
    """
    results = shown(stores)
    folder = folder.resolve()
    _check_outside(folder, results)
    _check_replaceable(folder)
    found = [(of, of.catalogue.snapshot()) for of in results]
    for _, snapshot in found:
        for problem in snapshot.problems:
            raise ViewError(f"{problem}; a bundle shows sound results only")
    kept = _count(snapshot for _, snapshot in found)
    if not kept:
        raise ViewError(f"{' and '.join(of.store.root for of in results)}: no images to show yet, or none were kept")
    chosen = [(of, snapshot) for (of, _), snapshot in zip(found, _chosen(found, most), strict=True)]
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as made:
            new, old = Path(made) / "new", Path(made) / "old"
            _write(new, chosen)
            # Looked at again: writing takes its time, and somebody may have put something there.
            _check_replaceable(folder)
            folder.mkdir(exist_ok=True)
            old.mkdir()
            # At any time the marker names all that is there, so that what was left half done is known as a bundle.
            for item in [item for item in folder.iterdir() if item.name != MARKER]:
                shutil.move(item, old / item.name)
            for item in sorted(new.iterdir(), key=lambda item: item.name != MARKER):
                shutil.move(item, folder / item.name)
        size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    except OSError as error:
        raise ViewError(f"{error.filename or folder}: cannot be written: {error.strerror or error}") from error
    return Bundle(folder / "index.html", _count(snapshot for _, snapshot in chosen), kept, size)


def _check_outside(folder: Path, results: Sequence[Shown]) -> None:
    for of in results:
        if "://" in of.store.root:
            continue
        root = Path(of.store.root).resolve()
        if folder == root or root in folder.parents or folder in root.parents:
            raise ViewError(f"{folder}: holds the results, or lies in them; expected a folder outside of {root}")


def _check_replaceable(folder: Path) -> None:
    """Refuses a folder that holds anything but a bundle, unchanged or not: that is somebody else's."""
    if not folder.exists():
        return
    if not folder.is_dir():
        raise ViewError(f"{folder}: is a file; expected a folder")
    there = {
        path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir() or path.is_symlink()
    }
    if not there:
        return
    try:
        own = set(json.loads((folder / MARKER).read_text(encoding="utf-8"))["files"])
    except (OSError, ValueError, KeyError, TypeError):
        own = set()
    foreign = sorted(there - own - {MARKER}) if own else sorted(there)
    if foreign:
        raise ViewError(
            f"{folder}: holds {foreign[0]}, which no bundle of the viewer wrote; expected a new or an empty folder"
        )


def _count(snapshots: Iterable[Snapshot]) -> int:
    return sum(part.index.num_rows for snapshot in snapshots for part in snapshot.parts)


def _chosen(found: Sequence[tuple[Shown, Snapshot]], most: int) -> list[Snapshot]:
    """Returns the snapshots without the pictures that are left out."""
    rows: dict[tuple[int, str], list[int]] = defaultdict(list)
    left = most
    for group in _in_turn(found):
        if len(group) > left:
            break
        left -= len(group)
        for number, part, at in group:
            rows[number, part.images.seal].append(at)
    if not rows:
        raise ViewError(
            f"--max-pictures {most}: one prompt and seed have {len(group)} pictures; expected that many or more"
        )
    # Parts that give no picture stay: what effects are shares of does not depend on the choice.
    return [
        replace(
            snapshot,
            parts=tuple(
                replace(part, index=part.index.take(pa.array(sorted(rows[number, part.images.seal]), pa.int64())))
                for part in snapshot.parts
            ),
        )
        for number, (_, snapshot) in enumerate(found)
    ]


_GROUPED = ["model", "attribute", "control", "seed", "prompt"]
_Row = tuple[int, Part, int]  # Number of the results, part, place in its index.


def _in_turn(found: Sequence[tuple[Shown, Snapshot]]) -> Iterator[list[_Row]]:
    """Yields all pictures of one prompt and seed together: first the first of every model and attribute."""
    groups: dict[tuple[Any, ...], dict[tuple[Any, ...], list[_Row]]] = defaultdict(lambda: defaultdict(list))
    for number, (_, snapshot) in enumerate(found):
        for part in snapshot.parts:
            for at, row in enumerate(part.index.select(_GROUPED).to_pylist()):
                block = (number, row["model"], row["attribute"], row["control"] in ("before", "edited"))
                groups[block][row["seed"], row["prompt"]].append((number, part, at))
    lists = [[rows for _, rows in sorted(of_block.items())] for _, of_block in sorted(groups.items())]
    for turn in range(max(map(len, lists), default=0)):
        yield from (each[turn] for each in lists if turn < len(each))


def _write(folder: Path, found: Sequence[tuple[Shown, Snapshot]]) -> None:
    """Writes all files."""
    details: dict[str, Any] = {}
    for of, snapshot in found:
        for part in snapshot.parts:
            # One may stand there under several labels.
            rows, seal = distinct(part.index, "row"), part.images.seal
            if not rows:
                continue
            (folder / "picture" / seal).mkdir(parents=True, exist_ok=True)
            for row, columns in zip(rows, of.catalogue.details(seal, rows), strict=True):
                details[f"{seal}/{row}"] = in_words(columns)
                (folder / "picture" / seal / f"{row}.png").write_bytes(of.catalogue.image(seal, row))
    (folder / "static").mkdir()
    for name in ASSETS:
        (folder / "static" / name).write_bytes(asset(name))
    for number, (of, _) in enumerate(found):
        if of.has_report():
            (folder / "report").mkdir(exist_ok=True)
            (folder / "report" / f"{number}.html").write_bytes(of.store.blobs.read(REPORT))
    page = render([of for of, _ in found], encode_index(found, details=details))
    (folder / "index.html").write_text(page, encoding="utf-8")
    files = sorted(
        Path(base, name).relative_to(folder).as_posix() for base, _, names in os.walk(folder) for name in names
    )
    (folder / MARKER).write_text(json.dumps({"files": files}), encoding="utf-8")
