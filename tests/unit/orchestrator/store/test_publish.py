from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.parquet as pq
import pytest

from orchestrator.store import DamagedFileError, Publisher, Store, examine, layout, publish, repair, verify
from orchestrator.store.blobs import Blobs, Put
from orchestrator.store.checksums import encode_document, encode_table, sum_of
from orchestrator.store.local import LocalBlobs
from orchestrator.store.testing import CrashError, FaultyBlobs, MemoryBlobs
from tests.support.sweeps import tiny_sweep

Make = Callable[..., Any]


def cells(store: Store) -> Counter[str]:
    """Counts published cells, as a reader of the folder sees them: without manifests."""
    return Counter(store.read("scores")["cell_id"].to_pylist())


def commit(store: Store, unit: Make, count: int, start: int = 0, **options: int) -> None:
    for i in range(start, start + count):
        store.commit_unit(f"u{i:05d}", unit(f"u{i:05d}", **options), "a")


def test_published_tables_hold_every_row_once(unit: Make) -> None:
    store = Store(MemoryBlobs())
    commit(store, unit, 20, images=1)
    publisher = Publisher(store)
    assert publisher.publish(flush=True) == 20
    assert publisher.publish(flush=True) == 0
    for table, rows in {"scores": 60, "failures": 20, "embeddings": 60, "images": 20}.items():
        assert store.read(table).num_rows == rows
    assert set(cells(store).values()) == {1}


def test_a_folder_reads_with_pandas_from_the_start(unit: Make, tmp_path: Path) -> None:
    store = Store(LocalBlobs(tmp_path))
    store.write_schemas("a")
    tables = ("scores", "failures", "embeddings", "images", "effects", "localizations")
    assert [len(pd.read_parquet(tmp_path / table)) for table in tables] == [0] * 6
    commit(store, unit, 9)
    Publisher(store).publish()
    frame = pd.read_parquet(tmp_path / "scores")
    assert len(frame) == 27
    assert list(frame.columns) == pq.read_schema(tmp_path / "scores/part-00000.parquet").names


def test_few_units_wait_for_more_unless_flushed(unit: Make) -> None:
    store = Store(MemoryBlobs())
    publisher = Publisher(store)
    commit(store, unit, 7)
    assert publisher.publish() == 0
    commit(store, unit, 1, start=7)
    assert publisher.publish() == 8


def test_a_million_cells_make_about_sixty_files() -> None:
    published, parts = 0, 0
    while published < 1_000_000 / 40:
        published += max(publish.FIRST_UNITS, math.ceil(publish.GROWTH * published))
        parts += 1
    assert 45 <= parts <= 75


def test_parts_are_bounded_in_bytes(unit: Make) -> None:
    store = Store(MemoryBlobs())
    commit(store, unit, 12, images=4)
    Publisher(store, max_bytes=70_000).publish(flush=True)
    sizes = [len(store.blobs.read(path)) for path in store.blobs.list("images")]
    assert len(sizes) >= 4
    assert store.read("images").num_rows == 48


def test_no_unit_is_read_twice(unit: Make) -> None:
    blobs = MemoryBlobs()
    reads: Counter[str] = Counter()
    read = blobs.read
    blobs.read = lambda path: (reads.update([path]), read(path))[1]  # type: ignore[method-assign]
    store = Store(blobs)
    publisher = Publisher(store)
    for i in range(12):
        commit(store, unit, 1, start=i)
        publisher.publish()
    publisher.publish(flush=True)
    assert set(reads.values()) == {1}


def test_a_crash_at_any_storage_call_loses_and_doubles_nothing(unit: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(publish, "FIRST_UNITS", 2)
    undisturbed = run_in_steps(MemoryBlobs(), unit)
    for n in range(1, 1000):
        inner = MemoryBlobs()
        faulty = FaultyBlobs(inner, n, after=False)
        finished = False
        try:
            run_in_steps(faulty, unit)
            finished = True
        except CrashError:
            seen = cells(Store(inner))
            assert not seen or set(seen.values()) == {1}
        run_in_steps(inner, unit)
        assert verify(Store(inner)) == []
        again = Store(inner).read("scores").sort_by("cell_id")
        assert again.equals(Store(undisturbed).read("scores").sort_by("cell_id")), f"crash at call {n}"
        if finished:
            assert n > 30
            return
    pytest.fail("never finished")


def run_in_steps(blobs: Blobs, unit: Make) -> Blobs:
    """What a driver does: commits what is missing, publishing as it goes."""
    store = Store(blobs)
    store.write_schemas("a")
    publisher = Publisher(store)
    for i in range(4):
        unit_id = f"u{i:05d}"
        if unit_id not in store.committed():
            store.commit_unit(unit_id, unit(unit_id), "a")
        publisher.publish()
    publisher.publish(flush=True)
    return blobs


def test_two_publishers_at_once_double_nothing(unit: Make) -> None:
    store = Store(MemoryBlobs())
    commit(store, unit, 10)
    one, two = Publisher(store), Publisher(store)
    one.publish(flush=True)
    commit(store, unit, 10, start=10)
    assert two.publish(flush=True) == 10
    commit(store, unit, 10, start=20)
    assert one.publish(flush=True) == 10
    assert set(cells(store).values()) == {1}
    assert len(cells(store)) == 90


def test_a_publisher_that_loses_the_race_for_a_number_doubles_nothing(unit: Make) -> None:
    class Raced(MemoryBlobs):
        def put_if_absent(self, path: str, data: bytes, attempt_id: str) -> Put:
            if path.startswith("_meta/manifest") and not self.list("_meta/manifest"):
                super().put_if_absent(path, encode_document({"units": ["u00000", "u00001"]}), "other")
            return super().put_if_absent(path, data, attempt_id)

    store = Store(Raced())
    commit(store, unit, 3)
    Publisher(store).publish(flush=True)
    Publisher(store).publish(flush=True)
    assert cells(store) == Counter(f"u{i:05d}-{k}" for i in range(3) for k in range(3))
    assert verify(store) == []


def test_a_damaged_unit_is_not_published(unit: Make) -> None:
    blobs = MemoryBlobs()
    commit(Store(blobs), unit, 3)
    blobs.files["_meta/units/u00001.arrow"] = b""
    with pytest.raises(DamagedFileError, match=r"u00001\.arrow: empty; run `loco-sweep verify"):
        Publisher(Store(blobs)).publish(flush=True)
    assert Store(blobs).read("scores").num_rows == 0


DAMAGE = {
    "unpublished unit": ["_meta/units/u00003.arrow"],
    "published unit": ["_meta/units/u00002.arrow"],
    "part": ["scores/part-00001.parquet"],
    "part and unit": ["scores/part-00001.parquet", "_meta/units/u00002.arrow"],
    "manifest": ["_meta/manifest/00001.json"],
    "manifest and unit": ["_meta/manifest/00001.json", "_meta/units/u00002.arrow"],
    "record": ["_meta/published/00001.json"],
    "record and unit": ["_meta/published/00001.json", "_meta/units/u00002.arrow"],
    "schema": ["failures/part-00000.parquet"],
    "derived": ["effects/part-00000.parquet"],
}


@cache
def sound(unit: Make) -> dict[str, bytes]:
    """Results with three published units and one that is not yet."""
    blobs = MemoryBlobs()
    store = Store(blobs)
    store.write_schemas("a")
    commit(store, unit, 3, images=1)
    Publisher(store).publish(flush=True)
    commit(store, unit, 1, start=3, images=1)
    return blobs.files


def damaged(unit: Make, paths: list[str], how: str) -> MemoryBlobs:
    blobs = MemoryBlobs()
    blobs.files.update(sound(unit))
    for path in paths:
        if how == "missing":
            del blobs.files[path]
            continue
        data = bytearray(blobs.files[path])
        data[len(data) // 2] ^= 4
        kept = {"truncated": len(data) // 3, "emptied": 0}.get(how, len(data))
        blobs.files[path] = bytes(data[:kept])
    return blobs


def redo_lost(store: Store, unit: Make) -> list[str]:
    """What the run command does afterwards."""
    lost = sorted({f"u{i:05d}" for i in range(4)} - store.committed())
    for unit_id in lost:
        store.commit_unit(unit_id, unit(unit_id, images=1), "b")
    Publisher(store).publish(flush=True)
    return lost


@pytest.mark.parametrize("how", ["flipped", "truncated", "emptied"])
@pytest.mark.parametrize("what", list(DAMAGE))
def test_damage_is_named_mended_and_the_rest_is_kept(unit: Make, what: str, how: str) -> None:
    paths = DAMAGE[what]
    blobs = damaged(unit, paths, how)
    store = Store(blobs)
    assert [damage.path for damage in verify(store)] == sorted(paths)
    assert [damage.path for damage in repair(store)] == sorted(paths)
    assert verify(store) == []
    lost = redo_lost(store, unit)
    expected = {
        "unpublished unit": ["u00003"],
        "part and unit": ["u00002"],
        "manifest and unit": ["u00002"],
        "record and unit": ["u00002"],
    }
    assert lost == expected.get(what, [])
    assert verify(store) == []
    assert cells(store) == Counter(f"u{i:05d}-{k}" for i in range(4) for k in range(3))
    for table, rows in {"failures": 4, "images": 4, "embeddings": 12}.items():
        assert store.read(table).num_rows == rows


@pytest.mark.parametrize(
    "path", [layout.SWEEP, layout.RESOLVED, layout.IN_FLIGHT, layout.PROGRESS, layout.LEASE, layout.plan(0)]
)
def test_damage_of_what_a_driver_keeps_for_itself_is_named_and_set_aside(unit: Make, path: str) -> None:
    blobs = damaged(unit, [], "")
    table = Store(blobs).read("scores")
    data = encode_table(table) if path.endswith(".parquet") else encode_document({"attempts": {}})
    blobs.files[path] = data[:-9]
    store = Store(blobs)
    assert [damage.path for damage in verify(store)] == [path]
    repair(store)
    assert verify(store) == []
    assert data[:-9] in [blobs.files[kept] for kept in blobs.list(layout.QUARANTINE)]
    assert cells(store) == Counter(f"u{i:05d}-{k}" for i in range(4) for k in range(3))


def test_missing_files_are_named_and_mended(unit: Make) -> None:
    for path in ("_meta/units/u00002.arrow", "images/part-00001.parquet"):
        store = Store(damaged(unit, [path], "missing"))
        assert [(damage.path, damage.problem) for damage in verify(store)] == [(path, "missing")]
        repair(store)
        assert redo_lost(store, unit) == []
        assert verify(store) == []
        assert len(cells(store)) == 12


def test_files_that_nobody_published_are_set_aside(unit: Make) -> None:
    blobs = damaged(unit, [], "")
    blobs.files["scores/mine.parquet"] = b"precious"
    store = Store(blobs)
    assert [damage.problem for damage in verify(store)] == ["not published by loco-sweep"]
    repair(store)
    assert verify(store) == []
    assert b"precious" in [blobs.files[path] for path in blobs.list("_meta/quarantine")]


@pytest.mark.parametrize("path", ["scores/part-00001.parquet", layout.published(1)])
@pytest.mark.parametrize("how", ["flipped", "truncated"])
def test_what_is_made_again_is_set_aside_first(unit: Make, path: str, how: str) -> None:
    blobs = damaged(unit, [path], how)
    before = blobs.files[path]
    repair(Store(blobs))
    assert before in [blobs.files[kept] for kept in blobs.list(layout.QUARANTINE)]


@pytest.mark.parametrize("recorded", [True, False])
def test_a_part_of_which_no_unit_has_rows_does_not_stay(unit: Make, recorded: bool) -> None:
    blobs = MemoryBlobs()
    store = Store(blobs)
    store.write_schemas("a")
    store.commit_unit("u", {"scores": unit("u")["scores"]}, "a")
    Publisher(store).publish(flush=True)
    path = layout.part("failures", 1)
    blobs.files[path] = encode_table(unit("u")["failures"])
    files = {name: sum_of(blobs.files[name]) for name in (layout.part("scores", 1), path)}
    blobs.files[layout.published(1)] = encode_document({"files": files}) if recorded else b"damaged"
    assert [damage.path for damage in verify(store)] == [path if recorded else layout.published(1)]
    repair(store)
    assert verify(store) == []
    assert (store.read("scores").num_rows, store.read("failures").num_rows) == (3, 0)


@pytest.mark.parametrize("name", ["a" * 230, "\u00e9" * 120, "scores//x", "scores//a/x", "/x", "//x"])
def test_any_name_can_be_among_results(unit: Make, name: str) -> None:
    blobs = damaged(unit, [], "")
    path = f"{name}.parquet" if "/" in name else f"scores/{name}.parquet"
    blobs.files[path] = b"precious"
    store = Store(blobs)
    found = examine(store)
    repair(store)
    assert verify(store) == []
    assert b"precious" in blobs.files.values()
    assert (path in [damage.path for damage in found.damages]) == (path not in blobs.files)
    assert all(len(part.encode()) < 250 for kept in blobs.list(layout.QUARANTINE) for part in kept.split("/"))


@pytest.mark.parametrize("path", ["edits/part-00000.parquet", layout.RESOLVED])
def test_what_is_written_while_results_are_looked_at_is_not_missing(
    unit: Make, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    blobs = damaged(unit, [], "")
    store = Store(blobs)
    sweep = {"sweep_id": "s", "spec": tiny_sweep("x").model_dump(mode="json")}
    blobs.files[layout.SWEEP] = encode_document(sweep)
    blobs.files[layout.RESOLVED] = encode_document({"models": {}, "sites": {}, "scorer": "1" * 64})
    listed = [item for item in blobs.walk("") if item[0] != path]
    if path != layout.RESOLVED:
        listed.append((path.partition("/")[0], "folder"))
    before = {damage.path for damage in verify(store)}
    monkeypatch.setattr(blobs, "walk", lambda _: listed)
    assert {damage.path for damage in verify(store)} == before
    del blobs.files[path]
    assert path in {damage.path for damage in verify(store)}


@pytest.mark.parametrize("what", ["part and unit", "manifest and unit", "published unit"])
def test_a_crash_during_repair_is_mended_by_another(unit: Make, what: str) -> None:
    tried = list[dict[str, bytes]]()
    for n in range(1, 2000):
        inner = damaged(unit, DAMAGE[what], "flipped")
        try:
            repair(Store(FaultyBlobs(inner, n, after=False)))
            finished = True
        except CrashError:
            finished = False
        if not finished and inner.files in tried:
            # Between two writes every crash leaves the same behind.
            continue
        tried.append(dict(inner.files))
        store = Store(inner)
        repair(store)
        redo_lost(store, unit)
        assert verify(store) == []
        assert cells(store) == Counter(f"u{i:05d}-{k}" for i in range(4) for k in range(3)), f"crash at call {n}"
        if finished:
            assert len(tried) > 3
            return
    pytest.fail("never finished")
