from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest

from orchestrator.store import DamagedFileError, Store, StoreError, make_table
from orchestrator.store.testing import MemoryBlobs
from orchestrator.store.units import encode_unit


def test_a_unit_reads_back_table_by_table(unit: Callable[..., Any]) -> None:
    store, tables = Store(MemoryBlobs()), unit("u1", rows=4, images=2)
    assert store.commit_unit("u1", tables, "a") == "won"
    found = store.read_unit("u1")
    assert all(found[name].equals(tables[name]) for name in tables)
    assert store.committed() == {"u1"}


def test_the_first_commit_wins(unit: Callable[..., Any]) -> None:
    store = Store(MemoryBlobs())
    store.commit_unit("u1", unit("u1", rows=2), "a")
    assert store.commit_unit("u1", unit("u1", rows=3), "b") == "lost"
    assert store.read_unit("u1")["scores"].num_rows == 2


def test_a_unit_may_hold_failures_only() -> None:
    store = Store(MemoryBlobs())
    store.commit_unit("u", {"failures": make_table("failures", [{"unit_id": "u", "error": "boom"}])}, "a")
    found = store.read_unit("u")
    assert (found["failures"].num_rows, found["scores"].num_rows) == (1, 0)


@pytest.mark.parametrize(
    ("unit_id", "tables", "message"),
    [
        ("u", {}, "has no rows"),
        ("u", {"scores": make_table("scores", [{"unit_id": "v"}])}, "rows of another unit"),
        ("u", {"effects": make_table("effects", [{"model": "m"}])}, "no table 'effects'"),
        ("u", {"scores": make_table("failures", [{"unit_id": "u"}])}, "another schema"),
        ("../u", {"scores": make_table("scores", [{"unit_id": "../u"}])}, "no file name"),
    ],
)
def test_rows_that_are_not_as_they_should_be_are_refused(unit_id: str, tables: Any, message: str) -> None:
    store = Store(MemoryBlobs())
    with pytest.raises(StoreError, match=message):
        store.commit_unit(unit_id, tables, "a")
    assert store.committed() == frozenset()


@pytest.mark.parametrize("where", ["scores.clip_score", "embeddings.embedding"])
def test_what_is_no_number_is_named(where: str) -> None:
    rows: dict[str, Any] = {
        "scores": [{"unit_id": "u", "clip_score": 0.5}, {"unit_id": "u", "clip_score": math.nan}],
        "embeddings": [{"unit_id": "u", "embedding": [0.5, math.nan]}],
    }
    name = where.partition(".")[0]
    with pytest.raises(StoreError, match=rf"unit u: {where} holds a value that is no number \(NaN\); expected"):
        encode_unit("u", {name: make_table(name, rows[name])})


def test_a_damaged_unit_is_named(unit: Callable[..., Any]) -> None:
    blobs = MemoryBlobs()
    store = Store(blobs)
    store.commit_unit("u1", unit("u1"), "a")
    blobs.files["_meta/units/u1.arrow"] = blobs.files["_meta/units/u1.arrow"][:-3]
    with pytest.raises(DamagedFileError, match=r"_meta/units/u1\.arrow.*verify"):
        store.read_unit("u1")


def test_unknown_columns_and_wrong_types_are_refused() -> None:
    with pytest.raises(StoreError, match="no column 'clip_scor'; did you mean \"clip_score\""):
        make_table("scores", [{"clip_scor": 1.0}])
    with pytest.raises(StoreError, match="table scores"):
        make_table("scores", [{"clip_score": "high"}])
