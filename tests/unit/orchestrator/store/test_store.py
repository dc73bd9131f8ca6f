"""Tables that an older version wrote, and derived tables that two drivers write at once."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pytest

from orchestrator.store import Publisher, Store, StoreError, make_table, publish, repair, schemas, units, verify
from orchestrator.store import store as store_module
from orchestrator.store.local import LocalBlobs
from orchestrator.store.testing import MemoryBlobs

ADDED = "image_distance"


@contextmanager
def older_version() -> Iterator[None]:
    """The program before a column was added to ``scores``."""
    scores = schemas.TABLES["scores"]
    before = {**schemas.TABLES, "scores": scores.remove(scores.get_field_index(ADDED))}
    with pytest.MonkeyPatch.context() as patch:
        for module in (schemas, units, publish, store_module):
            patch.setattr(module, "TABLES", before)
        patch.setattr(store_module, "_without_rows", store_module._without_rows.__wrapped__)
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


def test_a_driver_that_another_overtakes_does_not_replace_its_table() -> None:
    store = Store(MemoryBlobs())
    store.write_schemas("a")
    rows = {name: make_table("localizations", [{"model": "m", "attribute": name}]) for name in ("a", "b")}
    store.update_derived("localizations", lambda old: rows["a"])

    def overtaken(old: pa.Table) -> pa.Table:
        store.update_derived("localizations", lambda old: pa.concat_tables([old, rows["b"]]).combine_chunks())
        return old

    with pytest.raises(StoreError, match="another driver wrote it at the same time"):
        store.update_derived("localizations", overtaken)
    assert store.read("localizations")["attribute"].to_pylist() == ["a", "b"]
