"""Tables that an older version wrote, files of derived tables, and columns of units."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pytest

from orchestrator.store import (
    DamagedFileError,
    Publisher,
    Store,
    StoreError,
    drop_derived,
    layout,
    make_table,
    publish,
    repair,
    schemas,
    units,
    verify,
    write_derived,
)
from orchestrator.store import rows as rows_module
from orchestrator.store import store as store_module
from orchestrator.store.local import LocalBlobs
from orchestrator.store.testing import FaultyBlobs, MemoryBlobs

ADDED = "image_distance"


@contextmanager
def older_version() -> Iterator[None]:
    """The program before a column was added to ``scores``."""
    scores = schemas.TABLES["scores"]
    before = {**schemas.TABLES, "scores": scores.remove(scores.get_field_index(ADDED))}
    with pytest.MonkeyPatch.context() as patch:
        for module in (schemas, units, store_module, rows_module):
            patch.setattr(module, "TABLES", before)
        for module in (publish, store_module):
            patch.setattr(module, "described", before.__getitem__)
        patch.setattr(store_module, "_without_rows", store_module._without_rows.__wrapped__)
        patch.setattr(units, "_no_rows", units._no_rows.__wrapped__)
        yield


def commit(store: Store, unit_id: str, **columns: Any) -> None:
    row = {"unit_id": unit_id, "cell_id": f"{unit_id}-0", "status": "ok", "clip_score": 0.5, **columns}
    store.commit_unit(unit_id, {"scores": make_table("scores", [row])}, "a")


def test_results_of_an_older_version_go_on_and_are_read_as_one_table(tmp_path: Path) -> None:
    with older_version():
        old = Store(LocalBlobs(tmp_path))
        old.write_schemas("a")
        commit(old, "u1")
        Publisher(old).publish(flush=True)
        commit(old, "u2")
    store = Store(LocalBlobs(tmp_path))
    store.write_schemas("b")
    commit(store, "u3", **{ADDED: 0.25})
    Publisher(store).publish(flush=True)
    expected = [("u1", None), ("u2", None), ("u3", 0.25)]
    for table in (store.read("scores"), store.read_columns("scores", ["unit_id", ADDED])):
        rows = table.select(["unit_id", ADDED]).to_pylist()
        assert sorted((row["unit_id"], row[ADDED]) for row in rows) == expected
    frame = pd.read_parquet(tmp_path / "scores").sort_values("unit_id")
    assert frame[ADDED].fillna(-1).tolist() == [-1, -1, 0.25]
    assert verify(store) == []
    assert repair(store) == []


class Overtaken(FaultyBlobs):
    """Storage of a driver that is overtaken by another between the reading of a file and its writing."""

    def __init__(self, inner: MemoryBlobs, path: str, other: bytes) -> None:
        super().__init__(inner, 10**9, after=False)
        self._files, self._path, self._other = inner.files, path, other

    def compare_and_swap(self, path: str, data: bytes, expected: str | None) -> str | None:
        if path == self._path:
            self._files[path] = self._other
        return super().compare_and_swap(path, data, expected)


def localization(attribute: str, **row: Any) -> pa.Table:
    return make_table("localizations", [{"model": "m", "attribute": attribute, "localizer": "argmin", **row}])


def test_a_driver_that_another_overtakes_does_not_replace_its_table() -> None:
    blobs = MemoryBlobs()
    store, path = Store(blobs), layout.derived("localizations", "m", "a", "argmin")
    store.write_schemas("a")
    write_derived(store, {"localizations": localization("a", outcome="flat")})
    other = blobs.files[path]
    write_derived(store, {"localizations": localization("a", outcome="localized")})
    late = Store(Overtaken(blobs, path, other))
    with pytest.raises(StoreError, match="another driver wrote it at the same time"):
        write_derived(late, {"localizations": localization("a", outcome="redundant")})
    assert store.read("localizations")["outcome"].to_pylist() == ["flat"]


def test_a_file_of_a_derived_table_is_replaced_alone_and_can_be_dropped() -> None:
    blobs = MemoryBlobs()
    store = Store(blobs)
    store.write_schemas("a")
    write_derived(store, {"localizations": pa.concat_tables([localization("a"), localization("b")]).combine_chunks()})
    before = dict(blobs.files)
    write_derived(store, {"localizations": localization("b", outcome="flat")})
    assert [path for path in blobs.files if blobs.files[path] != before.get(path)] == [
        layout.derived("localizations", "m", "b", "argmin")
    ]
    assert store.read("localizations")["outcome"].to_pylist() == [None, "flat"]
    write_derived(store, {"localizations": localization("c")}, [("m", "d", "argmin")])
    drop_derived(store, [layout.derived("localizations", "m", "a", "argmin")])
    assert store.read("localizations")["attribute"].to_pylist() == ["b", "c"]
    assert layout.derived("localizations", "m", "d", "argmin") in blobs.files, "a file without rows"
    assert verify(store) == []


@pytest.mark.parametrize(
    "key", [("../x", "a", "b"), ("m", "A/b", "c"), ("m", "a_b", "c"), ("m", "a", "\u00e9\n"), ("", "", "")]
)
def test_a_file_is_named_after_its_key_whatever_it_says(key: tuple[str, str, str], tmp_path: Path) -> None:
    store = Store(LocalBlobs(tmp_path))
    store.write_schemas("a")
    row = dict(zip(("model", "attribute", "localizer"), key, strict=True))
    write_derived(store, {"effects": make_table("effects", [{**row, "effect": 0.5}])})
    (path,) = (path for path in (tmp_path / "effects").iterdir() if "00000" not in path.name)
    assert path.relative_to(tmp_path).as_posix() == layout.derived("effects", *key)
    assert store.read("effects")["effect"].to_pylist() == [0.5]
    assert pd.read_parquet(tmp_path / "effects")["effect"].tolist() == [0.5]
    assert verify(store) == []


def test_different_keys_have_different_files() -> None:
    texts = ["a", "A", "a b", "a-b", "a_b", "a/b", "", "x", "\u00e1", "a" * 100, "a" * 101]
    keys = list(itertools.product(texts, repeat=2))
    assert len({layout.derived("trials", *key) for key in keys}) == len(keys)


def test_a_file_of_another_key_is_refused_and_seen() -> None:
    blobs = MemoryBlobs()
    store = Store(blobs)
    store.write_schemas("a")
    write_derived(store, {"localizations": localization("a")})
    one, other = (layout.derived("localizations", "m", name, "argmin") for name in "ab")
    blobs.files[other] = blobs.files[one]
    with pytest.raises(DamagedFileError, match=r"m_b_argmin\.parquet: its rows are of another file \(m, a, argmin\)"):
        store.read("localizations")
    assert [damage.path for damage in verify(store)] == [other]
    repair(store)
    assert verify(store) == []
    assert store.read("localizations")["attribute"].to_pylist() == ["a"]


def test_rows_of_units_keep_nothing_else_of_their_files_in_memory(unit: Any) -> None:
    blobs = MemoryBlobs()
    store = Store(blobs)
    for name in ("u1", "u2"):
        store.commit_unit(name, unit(name), "a")
    before = [sys.getrefcount(data) for data in blobs.files.values()]
    rows = store.read_units(["u2", "u1"], "scores", ["cell_id", "clip_score"])
    assert rows.equals(store.read_units(["u2", "u1"], "scores").select(["cell_id", "clip_score"]))
    assert [sys.getrefcount(data) for data in blobs.files.values()] == before
