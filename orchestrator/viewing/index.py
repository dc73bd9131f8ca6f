"""What the page is sent: which results there are, and every picture of a part, as JSON without an image."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any
from weakref import WeakKeyDictionary

import pyarrow as pa
import pyarrow.compute as pc

from loco_core.errors import ViewError
from loco_core.localization.estimates import LEAST_FULL_EFFECT
from orchestrator.spec import SweepSpec
from orchestrator.store import Store
from orchestrator.store.layout import REPORT
from orchestrator.viewing.catalogue import Catalogue, Part, Snapshot
from orchestrator.viewing.pictures import intervention_words

_ROUNDED = ("score", "drop")
_DIGITS = 5
_ENCODED: WeakKeyDictionary[Part, bytes] = WeakKeyDictionary()
"""Parts never change."""


@dataclass(frozen=True)
class Shown:
    """Results that are shown.

    Attributes:
        name: name that tells them from the others that are shown.
        store: the results.
        images: which images the sweep keeps.
        intervention: words of the options that localizations are about.
        catalogue: their pictures.
    """

    name: str
    store: Store
    images: str
    intervention: str
    catalogue: Catalogue

    def has_report(self) -> bool:
        """Tells whether a report was written into the results."""
        return self.store.blobs.exists(REPORT)


def shown(stores: Sequence[Store]) -> tuple[Shown, ...]:
    """Returns results with names of their own: those of their sweeps, and of their folders where these are alike.

    Raises:
        ViewError: results are given twice.
        StoreError: they cannot be read.
    """
    roots = [store.root for store in stores]
    for root, times in Counter(roots).items():
        if times > 1:
            raise ViewError(f"{root}: is given {times} times; expected each results folder once")
    sweeps = [store.sweep() for store in stores]
    names = [sweep.name if sweep else root for sweep, root in zip(sweeps, roots, strict=True)]
    folders = [f"{name} ({PurePosixPath(root).name})" for name, root in zip(names, roots, strict=True)]
    for longer in (folders, roots):
        count = Counter(names)
        names = [long if count[name] > 1 else name for name, long in zip(names, longer, strict=True)]
    return tuple(
        Shown(name, store, *_of_sweep(sweep), Catalogue(store))
        for name, store, sweep in zip(names, stores, sweeps, strict=True)
    )


def _of_sweep(sweep: SweepSpec | None) -> tuple[str, str]:
    if sweep is None:
        return "none", ""
    return sweep.images, intervention_words(sweep.interventions[0], sweep.generation.steps)


def encode_index(
    results: Iterable[tuple[Shown, Snapshot]], known: Collection[str] = (), details: Mapping[str, Any] | None = None
) -> bytes:
    """Returns what there is, as JSON.

    Args:
        results: the results, and what they hold.
        known: parts whose pictures are left out, by the first digits of their seals: who asks has them.
        details: columns of every picture, by its address; None leaves them to be asked for one by one.
    """
    described, parts = [], []
    for number, (of, snapshot) in enumerate(results):
        files = [part.images.seal for part in snapshot.parts]
        # A bundle goes to people who have no such folder.
        root = of.store.root if details is None else ""
        described.append({**_described(number, of, snapshot), "root": root, "parts": files})
        parts += [_encoded(part) for part in snapshot.parts if not part.images.seal.startswith(tuple(known))]
    head = json.dumps({"results": described, "details": details})
    version = hashlib.sha256(head.encode()).hexdigest()[:16]
    return b'%s, "version": "%s", "parts": [%s]}' % (head[:-1].encode(), version.encode(), b",".join(parts))


def version_of(index: bytes) -> str:
    """Returns the version of an index: equal for equal contents, whatever was left out."""
    return index.rpartition(b'"version": "')[2][:16].decode()


def _described(number: int, of: Shown, snapshot: Snapshot) -> dict[str, Any]:
    full = snapshot.full_effects()
    return {
        "name": of.name,
        "images": of.images,
        "intervention": of.intervention,
        "report": f"report/{number}.html" if of.has_report() else None,
        "problems": snapshot.problems,
        "edits": snapshot.edits,
        "full": [[*block, drop] for block, drop in full.items() if drop >= LEAST_FULL_EFFECT],
        "localizations": snapshot.localizations,
    }


def _encoded(part: Part) -> bytes:
    """Returns the pictures of a part, column by column, as JSON."""
    if part not in _ENCODED:
        columns = {name: _column(name, part.index[name]) for name in part.index.column_names}
        described = {"file": part.images.seal, "rows": part.index.num_rows, "columns": columns}
        _ENCODED[part] = json.dumps(described).encode()
    return _ENCODED[part]


def _column(name: str, column: pa.ChunkedArray[Any]) -> dict[str, Any] | list[Any]:
    """Returns texts as their values and the number of one in each row, since most rows share theirs with others."""
    if name in _ROUNDED:
        column = pc.round(column, _DIGITS)
    elif pa.types.is_string(column.type) and name != "cell":
        coded = column.combine_chunks().dictionary_encode()
        return {"values": coded.dictionary.to_pylist(), "codes": coded.indices.to_pylist()}
    return column.to_pylist()
