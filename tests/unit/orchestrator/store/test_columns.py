"""Every column says what it means and in which unit, here and in the files that people read."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from orchestrator.store import Publisher, Store, layout, make_table, verify, write_derived
from orchestrator.store.local import LocalBlobs
from orchestrator.store.schemas import TABLES, about, columns_of, described


@pytest.mark.parametrize("name", TABLES)
def test_every_column_has_a_meaning_and_a_unit(name: str) -> None:
    assert about(name)
    assert [column.name for column in columns_of(name)] == TABLES[name].names
    for column in columns_of(name):
        assert column.unit
        assert len(column.meaning) > 8


def documents(schema: pa.Schema) -> dict[str, dict[bytes, bytes]]:
    return {field.name: field.metadata or {} for field in schema}


def test_published_files_say_it_and_units_do_not(tmp_path: Path) -> None:
    store = Store(LocalBlobs(tmp_path))
    store.write_schemas("a")
    row = {"unit_id": "u", "cell_id": "c", "status": "ok", "clip_score": 0.5}
    store.commit_unit("u", {"scores": make_table("scores", [row])}, "a")
    Publisher(store).publish(flush=True)
    found = make_table("effects", [{"model": "m", "attribute": "a", "localizer": "argmin", "effect": 0.5}])
    write_derived(store, {"effects": found})
    paths = {
        "scores": [layout.part("scores", 0), layout.part("scores", 1)],
        "effects": [layout.part("effects", 0), layout.derived("effects", "m", "a", "argmin")],
    }
    for name, files in paths.items():
        for path in files:
            said = documents(pq.read_schema(tmp_path / path))
            assert said == documents(described(name))
            assert all(said.values())
    assert documents(pq.read_schema(tmp_path / paths["scores"][1]))["seconds"][b"unit"] == b"seconds"
    assert b"description" not in (tmp_path / layout.unit("u")).read_bytes()


def test_a_part_that_an_earlier_version_described_in_other_words_is_sound(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(LocalBlobs(tmp_path))
    store.write_schemas("a")
    row = {"unit_id": "u", "cell_id": "c", "status": "ok", "clip_score": 0.5}
    store.commit_unit("u", {"scores": make_table("scores", [row])}, "a")
    with monkeypatch.context() as patch:
        patch.setattr("orchestrator.store.publish.described", TABLES.__getitem__)
        Publisher(store).publish(flush=True)
    assert not any(documents(pq.read_schema(tmp_path / layout.part("scores", 1))).values())
    assert verify(store) == []
