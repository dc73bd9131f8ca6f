"""One contract for every storage; see `conftest.py`."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from orchestrator.store import (
    MissingFileError,
    Publisher,
    Store,
    StoreError,
    check_marker,
    check_whole,
    examine,
    make_table,
    preflight,
    repair,
    verify,
)
from orchestrator.store.blobs import Blobs
from orchestrator.store.local import LocalBlobs
from orchestrator.store.testing import MemoryBlobs


class TestBlobs:
    def test_the_first_writer_wins_and_its_bytes_stay(self, blobs: Blobs) -> None:
        assert blobs.put_if_absent("scores/a.parquet", b"one", "x") == "won"
        assert blobs.put_if_absent("scores/a.parquet", b"two", "y") == "lost"
        assert blobs.read("scores/a.parquet") == b"one"

    def test_of_many_writers_at_once_one_wins(self, blobs: Blobs) -> None:
        barrier = threading.Barrier(6)

        def put(i: int) -> str:
            barrier.wait()
            return blobs.put_if_absent("_meta/race", bytes([i]) * 1000, str(i))

        with ThreadPoolExecutor(6) as pool:
            outcomes = list(pool.map(put, range(6)))
        assert sorted(outcomes) == ["lost"] * 5 + ["won"]
        assert blobs.read("_meta/race") == bytes([outcomes.index("won")]) * 1000

    def test_replace_takes_the_place_of_what_was_there(self, blobs: Blobs) -> None:
        for data in (b"one", b"", b"three" * 100_000):
            blobs.replace("a/b", data)
            assert blobs.read("a/b") == data

    def test_swap_needs_the_version_that_was_read(self, blobs: Blobs) -> None:
        first = blobs.compare_and_swap("_meta/l", b"one", None)
        assert first is not None
        assert blobs.compare_and_swap("_meta/l", b"two", None) is None
        second = blobs.compare_and_swap("_meta/l", b"three", first)
        assert second not in (None, first)
        assert blobs.compare_and_swap("_meta/l", b"four", first) is None
        found = blobs.read_versioned("_meta/l")
        assert found is not None
        assert (found.data, found.version) == (b"three", second)

    def test_swap_of_a_file_that_is_gone_is_refused(self, blobs: Blobs) -> None:
        version = blobs.compare_and_swap("_meta/l", b"one", None)
        blobs.delete("_meta/l")
        assert blobs.compare_and_swap("_meta/l", b"two", version) is None
        assert not blobs.exists("_meta/l")

    def test_of_many_swaps_at_once_one_wins(self, blobs: Blobs) -> None:
        version = blobs.compare_and_swap("_meta/l", b"start", None)
        with ThreadPoolExecutor(6) as pool:
            swaps = list(pool.map(lambda i: blobs.compare_and_swap("_meta/l", f"{i}".encode(), version), range(6)))
        assert sum(swap is not None for swap in swaps) == 1

    def test_listing_is_fresh_sorted_and_of_one_folder(self, blobs: Blobs) -> None:
        assert blobs.list("scores") == []
        for name in ("b", "a", "deeper/c"):
            blobs.put_if_absent(f"scores/{name}", b"1", name)
        blobs.put_if_absent("scores2/x", b"1", "x")
        assert blobs.list("scores") == ["scores/a", "scores/b"]
        blobs.delete("scores/a")
        assert blobs.list("scores") == ["scores/b"]

    def test_folders_are_those_of_one_folder(self, blobs: Blobs) -> None:
        for path in ("a/b/x", "a/b/y", "a/c/d/x", "a/x", "b/x"):
            blobs.replace(path, b"1")
        assert [name for name in blobs.folders("") if name != "_meta"] == ["a", "b"]
        assert blobs.folders("a") == ["a/b", "a/c"]
        assert blobs.folders("b") == blobs.folders("nowhere") == []

    def test_a_walk_names_all_that_lies_below(self, blobs: Blobs) -> None:
        paths = ["f/a", "f/b/c", "f/b/d/e", "g/x (1).json"]
        for path in paths:
            blobs.replace(path, b"x")
        found = [path for path, kind in blobs.walk("") if kind == "file" and not path.startswith("_meta/")]
        assert found == paths
        assert [path for path, kind in blobs.walk("f/b") if kind == "file"] == ["f/b/c", "f/b/d/e"]
        assert list(blobs.walk("none")) == []

    @pytest.mark.parametrize("path", ["../x", "/x", "scores/../../x", "scores//x", "./x", "scores/..", "a\\b", "a\0b"])
    def test_paths_that_lead_elsewhere_are_refused(self, blobs: Blobs, path: str) -> None:
        if isinstance(blobs, MemoryBlobs):
            pytest.skip("names in a dictionary lead nowhere")
        for use in (
            lambda: blobs.read(path),
            lambda: blobs.read_range(path, 0, 1),
            lambda: blobs.size(path),
            lambda: blobs.read_versioned(path),
            lambda: blobs.replace(path, b"x"),
            lambda: blobs.put_if_absent(path, b"x", "a"),
            lambda: blobs.compare_and_swap(path, b"x", None),
            lambda: blobs.delete(path),
            lambda: blobs.exists(path),
            lambda: blobs.list(path),
        ):
            with pytest.raises(StoreError, match="is no place in a results folder"):
                use()

    def test_what_is_absent_is_said_to_be(self, blobs: Blobs) -> None:
        assert not blobs.exists("a/b")
        assert blobs.read_versioned("a/b") is None
        blobs.delete("a/b")
        with pytest.raises(MissingFileError, match="a/b"):
            blobs.read("a/b")

    def test_a_range_is_read_as_far_as_there_are_bytes(self, blobs: Blobs) -> None:
        blobs.replace("a/b", b"0123456789")
        assert blobs.size("a/b") == 10
        ranges = ((0, 4), (3, 2), (8, 100), (10, 1), (4, 0))
        assert [blobs.read_range("a/b", *piece) for piece in ranges] == [b"0123", b"34", b"89", b"", b""]
        for read in (blobs.size, lambda path: blobs.read_range(path, 0, 1)):
            with pytest.raises(MissingFileError, match="a/c"):
                read("a/c")

    def test_preflight_gives_workers_a_marker_and_leaves_no_probe(self, blobs: Blobs) -> None:
        marker = preflight(blobs, needed_bytes=1)
        check_marker(blobs, marker)
        assert blobs.list("_meta") == ["_meta/marker"]
        with pytest.raises(StoreError, match="every machine mounts"):
            check_marker(MemoryBlobs(), marker)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    steps=st.lists(
        st.tuples(st.sampled_from(["put", "replace", "swap", "delete"]), st.sampled_from("ab"), st.integers(0, 3)),
        max_size=12,
    )
)
def test_disk_and_memory_do_the_same(
    steps: list[tuple[str, str, int]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    both: list[Blobs] = [LocalBlobs(tmp_path_factory.mktemp("r")), MemoryBlobs()]
    for i, (operation, name, value) in enumerate(steps):
        data, path = bytes([value]), f"f/{name}"
        outcomes: list[object] = []
        for blobs in both:
            if operation == "put":
                outcomes.append(blobs.put_if_absent(path, data, str(i)))
            elif operation == "replace":
                blobs.replace(path, data)
            elif operation == "delete":
                blobs.delete(path)
            else:
                found = blobs.read_versioned(f"f/{'ab'[value % 2]}")
                outcomes.append(blobs.compare_and_swap(path, data, found.version if found else None))
        assert len(set(outcomes)) <= 1
        assert both[0].list("f") == both[1].list("f")
        assert all(both[0].read(p) == both[1].read(p) for p in both[0].list("f"))


def test_copies_and_files_of_others_count_nowhere(blobs: Blobs) -> None:
    store = Store(blobs)
    store.write_schemas("a")
    for unit_id in ("u1", "u2"):
        row = {"unit_id": unit_id, "cell_id": f"{unit_id}-c", "status": "ok"}
        store.commit_unit(unit_id, {"scores": make_table("scores", [row])}, "a")
    Publisher(store).publish(flush=True)
    part, unit = blobs.read("scores/part-00001.parquet"), blobs.read("_meta/units/u1.arrow")
    copies = {
        "scores/part-00001 (1).parquet": part,
        "scores/part-00002.parquet": part,
        "_meta/units/copy.arrow": unit,
    }
    others = ["scores/.DS_Store", "_meta/units/._u1.arrow", "_meta/manifest/00001 (1).json", "notes/x.txt"]
    for path, data in {**copies, **dict.fromkeys(others, b"mine")}.items():
        blobs.replace(path, data)
    Publisher(store).publish(flush=True)
    check_whole(store)
    assert store.read("scores")["cell_id"].to_pylist() == ["u1-c", "u2-c"]
    found = examine(store)
    assert [damage.path for damage in found.damages] == sorted(copies)
    assert set(found.foreign) == {*others[:3], "notes/"}
    repair(store)
    assert verify(store) == []
    assert [blobs.read(path) for path in others] == [b"mine"] * 4
    blobs.delete("scores/part-00001.parquet")
    with pytest.raises(MissingFileError, match=r"scores/part-00001\.parquet is missing; "):
        check_whole(store)
    repair(store)
    assert store.read("scores")["cell_id"].to_pylist() == ["u1-c", "u2-c"]
