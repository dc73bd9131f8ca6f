"""Files among results that nobody published: they count nowhere and stop nothing; copies that others read are seen."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from orchestrator.store import (
    DamagedFileError,
    MissingFileError,
    Publisher,
    Store,
    StoreError,
    UnwritableError,
    check_whole,
    examine,
    layout,
    make_table,
    open_store,
    repair,
    verify,
    write_derived,
)
from orchestrator.store.checksums import encode_document
from orchestrator.store.local import LocalBlobs
from orchestrator.store.reads import committed_rows, published_units
from orchestrator.store.testing import MemoryBlobs
from tests.support.sweeps import Command

Make = Callable[..., Any]
UNITS = [f"u{i:05d}" for i in range(4)]
NAMES = [
    ".DS_Store", "._part-00001.parquet", ".nfs0001", "Thumbs.db", "._u00001.parquet", "x (conflicted copy 1).json",
    "00001 (1).json", "00001.json.bak", "0001.parquet~", "u00001 (conflicted copy 1).parquet", "notes",
]  # fmt: skip


@pytest.fixture
def store(unit: Make, tmp_path: Path) -> Store:
    """Two parts, the second of one unit, and a unit that is not published."""
    store = Store(LocalBlobs(tmp_path / "results"))
    store.write_schemas("a")
    for number, unit_id in enumerate(UNITS):
        store.commit_unit(unit_id, unit(unit_id, images=1), "a")
        if number in (1, 2):
            Publisher(store).publish(flush=True)
    return store


def counts(store: Store) -> dict[str, int]:
    committed = store.committed()
    there = committed_rows(store, "scores", ["cell_id"], published_units(store), committed)
    return {"committed": there.num_rows, **{name: store.read(name).num_rows for name in ("scores", "images")}}


@pytest.mark.parametrize("folder", layout.folders())
def test_files_of_others_count_nowhere_and_stay(store: Store, folder: str, tmp_path: Path) -> None:
    before = counts(store)
    (tmp_path / "results" / folder).mkdir(exist_ok=True, parents=True)
    readable = layout.is_read_with(f"{folder}/x.parquet")
    mine = [tmp_path / "results" / folder / name for name in NAMES]
    mine = [path for path in mine if not (readable and path.suffix == ".parquet" and path.name[0] != ".")]
    for path in mine:
        path.write_bytes(b"mine")
    assert counts(store) == before
    check_whole(store)
    store.blobs.clean()
    Publisher(store).publish(flush=True)
    found = examine(store)
    assert found.damages == ()
    if folder not in (layout.QUARANTINE, "_meta/staging"):
        assert set(found.foreign) == {path.relative_to(tmp_path / "results").as_posix() for path in mine}
    assert repair(store) == []
    assert all(path.read_bytes() == b"mine" for path in mine)


@pytest.mark.parametrize("kind", [layout.part, None])
def test_what_is_at_the_next_number_stands_in_nobody_s_way(store: Store, kind: Any, tmp_path: Path) -> None:
    root = tmp_path / "results"
    if kind:
        for table in ("scores", "images"):
            shutil.copy(root / layout.part(table, 1), root / layout.part(table, 3))
    else:
        shutil.copy(root / layout.published(1), root / layout.published(3))
    before = counts(store)
    check_whole(store)
    Publisher(store).publish(flush=True)
    assert counts(store) == {**before, "scores": 12, "images": 4}
    repair(store)
    assert verify(store) == []
    assert counts(store) == {**before, "scores": 12, "images": 4}


@pytest.mark.parametrize("folders", [[layout.MANIFESTS], [layout.MANIFESTS, layout.PUBLISHED]])
@pytest.mark.parametrize("number", [1, 2])
def test_a_manifest_that_is_gone_is_not_taken_for_one_that_never_was(
    store: Store, folders: list[str], number: int, tmp_path: Path
) -> None:
    for folder in folders:
        (tmp_path / "results" / folder / f"{number:05d}.json").unlink()
    with pytest.raises(MissingFileError, match=f"{layout.manifest(number)} is missing; "):
        check_whole(store)
    repair(store)
    assert verify(store) == []
    check_whole(store)
    assert counts(store) == {"committed": 12, "scores": 12, "images": 4}


@pytest.mark.parametrize("copy", ["part-00001 (1).parquet", "copy.parquet", "part-00009.parquet", "more/part.parquet"])
@pytest.mark.parametrize("table", ["scores", "images"])
def test_a_copy_of_a_part_is_seen_and_set_aside_since_others_read_it(
    store: Store, copy: str, table: str, tmp_path: Path
) -> None:
    before, root = counts(store), tmp_path / "results"
    rows = len(pd.read_parquet(root / table))
    target = root / table / copy
    target.parent.mkdir(exist_ok=True)
    shutil.copy(root / table / "part-00001.parquet", target)
    assert len(pd.read_parquet(root / table)) > rows
    assert counts(store) == before
    assert [damage.path for damage in verify(store)] == [f"{table}/{copy}"]
    repair(store)
    assert verify(store) == []
    assert len(list((root / layout.QUARANTINE).iterdir())) == 1
    assert store.read("scores").num_rows == 12


@pytest.mark.parametrize("name", ["stray", "0" * 64])
def test_a_copy_of_a_unit_is_not_published(store: Store, name: str, tmp_path: Path) -> None:
    folder = tmp_path / "results" / layout.UNITS
    for source in ("u00000", "u00003"):
        shutil.copy(folder / f"{source}.arrow", folder / f"{name}{source}.arrow")
    assert counts(store) == {"committed": 12, "scores": 9, "images": 3}
    Publisher(store).publish(flush=True)
    assert counts(store) == {"committed": 12, "scores": 12, "images": 4}
    assert len(verify(store)) == 2
    repair(store)
    assert verify(store) == []
    assert counts(store) == {"committed": 12, "scores": 12, "images": 4}


@pytest.mark.parametrize("number", ["written", "as an earlier version"])
def test_a_copy_of_a_manifest_decides_nothing(store: Store, number: str, tmp_path: Path) -> None:
    root = tmp_path / "results"
    copy = root / layout.manifest(3)
    shutil.copy(root / layout.manifest(1), copy)
    if number != "written":
        copy.write_bytes(encode_document({"units": UNITS[:2]}))
    before = counts(store)
    check_whole(store)
    Publisher(store).publish(flush=True)
    assert counts(store) == {**before, "scores": 12, "images": 4}
    assert [damage.path for damage in verify(store)] == [layout.manifest(3)]
    repair(store)
    assert verify(store) == []
    assert counts(store)["scores"] == 12


def test_a_unit_over_another_is_seen_and_restored(store: Store, tmp_path: Path) -> None:
    folder = tmp_path / "results" / layout.UNITS
    shutil.copy(folder / "u00000.arrow", folder / "u00001.arrow")
    shutil.copy(folder / "u00000.arrow", folder / "u00003.arrow")
    with pytest.raises(DamagedFileError, match=r"u00001\.arrow: its rows are of another unit \(u00000\)"):
        store.read_unit("u00001")
    assert [damage.path for damage in verify(store)] == [layout.unit("u00001"), layout.unit("u00003")]
    repair(store)
    assert verify(store) == []
    assert store.read_unit("u00001")["scores"]["unit_id"].to_pylist() == ["u00001"] * 3
    assert store.committed() == set(UNITS[:3])


@pytest.mark.parametrize("table", layout.DERIVED)
def test_a_table_in_the_place_of_another_is_refused_and_seen(store: Store, table: str, tmp_path: Path) -> None:
    root = tmp_path / "results"
    for other in ("scores/part-00001.parquet", *(layout.part(name, 0) for name in layout.DERIVED if name != table)):
        shutil.copy(root / other, root / layout.part(table, 0))
        with pytest.raises(DamagedFileError, match=f"is no table {table}"):
            store.read(table)
        assert [damage.path for damage in verify(store)] == [layout.part(table, 0)]


def test_parts_that_changed_places_are_refused_and_mended(store: Store, tmp_path: Path) -> None:
    root = tmp_path / "results" / "scores"
    one, two = root / "part-00001.parquet", root / "part-00002.parquet"
    data = one.read_bytes()
    one.write_bytes(two.read_bytes())
    two.write_bytes(data)
    with pytest.raises(DamagedFileError, match="not the file that was published"):
        store.read("scores")
    assert [damage.path for damage in verify(store)] == ["scores/part-00001.parquet", "scores/part-00002.parquet"]
    repair(store)
    assert verify(store) == []
    found = (store.read("scores"), store.read_units(UNITS))
    assert len({tuple(sorted(table["cell_id"].to_pylist())) for table in found}) == 1


MISSING = {
    "scores/part-00001.parquet": 1, "images/part-00002.parquet": 1, layout.unit("u00000"): 1,
    layout.part("effects", 0): 1, layout.part("localizations", 0): 1, layout.derived("effects", "m", "a", "argmin"): 1,
}  # fmt: skip


@pytest.mark.parametrize("path", MISSING)
def test_what_is_missing_is_named_before_anything_is_computed_and_mended(
    store: Store, path: str, tmp_path: Path
) -> None:
    effects = make_table("effects", [{"model": "m", "attribute": "a", "localizer": "argmin"}])
    write_derived(store, {"effects": effects})
    (tmp_path / "results" / path).unlink()
    with pytest.raises(
        MissingFileError, match=rf"{path} is missing; `loco-sweep verify .*/results --repair` "
    ) as error:
        check_whole(store)
    assert "\n" not in str(error.value)
    assert path in [damage.path for damage in verify(store)]
    repair(store)
    check_whole(store)
    assert verify(store) == []
    assert counts(store)["committed"] == 12


def test_a_record_that_is_gone_is_seen_unless_its_part_may_be_being_written(store: Store, tmp_path: Path) -> None:
    (tmp_path / "results" / layout.published(2)).unlink()
    check_whole(store)
    assert verify(store) == []
    (tmp_path / "results" / layout.published(1)).unlink()
    with pytest.raises(MissingFileError, match=rf"{layout.published(1)} is missing; "):
        check_whole(store)
    assert [damage.path for damage in verify(store)] == [layout.published(1)]
    repair(store)
    assert verify(store) == []
    assert counts(store) == {"committed": 12, "scores": 12, "images": 4}


@pytest.mark.parametrize("folder", [layout.UNITS, layout.PUBLISHED, layout.MANIFESTS, "scores", "images"])
def test_a_folder_that_is_gone_loses_no_published_row(store: Store, folder: str, tmp_path: Path) -> None:
    shutil.rmtree(tmp_path / "results" / folder)
    store = Store(LocalBlobs(tmp_path / "results"))
    repair(store)
    assert verify(store) == []
    assert len(set(store.read("scores")["cell_id"].to_pylist())) == store.read("scores").num_rows >= 9


def test_tables_without_what_they_were_made_of_are_refused(store: Store, tmp_path: Path) -> None:
    shutil.rmtree(tmp_path / "results" / "_meta")
    for create in (True, False):
        with pytest.raises(StoreError, match=r"part-00001\.parquet is there, but not _meta.*put _meta back, or"):
            open_store(str(tmp_path / "results"), create=create)


@pytest.mark.parametrize("path", [layout.manifest(3), layout.published(3)])
def test_a_folder_in_the_place_of_a_file_is_named_and_nobody_waits(store: Store, path: str, tmp_path: Path) -> None:
    (tmp_path / "results" / path).mkdir()
    for use in (lambda: check_whole(store), lambda: Publisher(store).publish(flush=True), lambda: repair(store)):
        with pytest.raises(UnwritableError, match=rf"{path}: a folder is in the way; expected a file"):
            use()
    assert [(damage.path, damage.mended) for damage in verify(store) if not damage.mended] == [(path, False)]


def test_rows_that_somebody_made_up_are_seen_though_all_sums_agree(unit: Make) -> None:
    from orchestrator.store.checksums import decode_table, encode_table, sum_of

    blobs = MemoryBlobs()
    store = Store(blobs)
    store.commit_unit("u", unit("u"), "a")
    Publisher(store).publish(flush=True)
    path = layout.part("scores", 1)
    table = decode_table(blobs.files[path], path)
    blobs.files[path] = encode_table(table.slice(0, 2))
    files = {p: sum_of(blobs.files[p]) for p in blobs.files if "part-00001" in p}
    blobs.files[layout.published(1)] = encode_document({"files": files})
    assert [(damage.path, damage.problem) for damage in verify(store)] == [
        (path, "its rows are not those of its units")
    ]
    repair(store)
    assert verify(store) == []
    assert store.read("scores").num_rows == 3


def test_what_a_file_is_called_moves_no_cursor_and_makes_no_line(
    store: Store, command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("orchestrator.store.open_store", lambda *_, **__: store)
    name = "scores/\x1b[2Jgone\nall is well"
    (tmp_path / "results" / name).write_bytes(b"mine")
    _, out, _ = command("verify", tmp_path / "results")
    (line,) = (line for line in out.splitlines() if "gone" in line)
    assert "\\x1b[2Jgone\\nall is well: " in line
    assert "\x1b" not in out
