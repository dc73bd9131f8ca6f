"""One contract for every storage: a disk, memory, and S3 (a local server that speaks its protocol)."""

from __future__ import annotations

import errno
import os
import threading
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import s3fs
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from moto.server import ThreadedMotoServer

from orchestrator.store import (
    DiskFullError,
    MissingFileError,
    Publisher,
    Store,
    StoreError,
    UnwritableError,
    check_marker,
    check_whole,
    examine,
    layout,
    make_table,
    open_as_worker,
    open_store,
    preflight,
    repair,
    verify,
)
from orchestrator.store.blobs import Blobs
from orchestrator.store.local import LocalBlobs
from orchestrator.store.s3 import S3Blobs
from orchestrator.store.testing import MemoryBlobs

Fs = Callable[[], s3fs.S3FileSystem]
USES: dict[str, Callable[[Blobs, str], object]] = {
    "read": lambda blobs, path: blobs.read(path),
    "read_range": lambda blobs, path: blobs.read_range(path, 0, 1),
    "size": lambda blobs, path: blobs.size(path),
    "read_versioned": lambda blobs, path: blobs.read_versioned(path),
    "exists": lambda blobs, path: blobs.exists(path),
    "replace": lambda blobs, path: blobs.replace(path, b"new"),
    "put_if_absent": lambda blobs, path: blobs.put_if_absent(path, b"new", "x"),
    "compare_and_swap": lambda blobs, path: blobs.compare_and_swap(path, b"new", None),
    "delete": lambda blobs, path: blobs.delete(path),
}
"""Every operation on one file."""


@pytest.fixture(scope="module")
def s3() -> Iterator[Fs]:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()

    def connect() -> s3fs.S3FileSystem:
        return s3fs.S3FileSystem(
            key="k",
            secret="s",
            endpoint_url=f"http://{host}:{port}",
            client_kwargs={"region_name": "us-east-1"},
            config_kwargs={"retries": {"total_max_attempts": 1}},
            use_listings_cache=False,
            skip_instance_cache=True,
        )

    connect().call_s3("create_bucket", Bucket="bucket")
    yield connect
    server.stop()


@pytest.fixture(params=["local", "memory", "s3"])
def blobs(request: pytest.FixtureRequest, tmp_path: Path) -> Blobs:
    if request.param == "local":
        return LocalBlobs(tmp_path / "results")
    if request.param == "memory":
        return MemoryBlobs()
    return S3Blobs(f"s3://bucket/{uuid.uuid4().hex}", request.getfixturevalue("s3")())


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


class TestS3:
    def test_more_than_a_page_of_files_is_listed(self, s3: Fs) -> None:
        fs = s3()
        names = [f"many/f{i:04d}" for i in range(25)]
        fs.pipe({f"bucket/{name}": b"" for name in names})
        call = fs.call_s3
        fs.call_s3 = lambda method, **options: call(method, MaxKeys=10, **options)
        assert S3Blobs("s3://bucket", fs).list("many") == names

    @pytest.mark.parametrize("error", [ConnectionResetError("reset"), TimeoutError("late")])
    def test_a_commit_whose_answer_was_lost_is_recognized(self, s3: Fs, error: Exception) -> None:
        fs = s3()
        blobs = S3Blobs(f"s3://bucket/{uuid.uuid4().hex}", fs, max_wait=0.01)
        lose_answer(fs, "put_object", error)
        assert blobs.put_if_absent("u", b"mine", "me") == "won"
        lose_answer(fs, "put_object", error)
        assert blobs.put_if_absent("u", b"other", "you") == "lost"
        lose_answer(fs, "put_object", error)
        version = blobs.compare_and_swap("l", b"mine", None)
        assert version is not None
        assert blobs.compare_and_swap("l", b"next", version) is not None

    def test_overload_is_waited_out_with_bounded_requests(self, s3: Fs) -> None:
        fs = s3()
        blobs = S3Blobs(f"s3://bucket/{uuid.uuid4().hex}", fs, max_wait=0.01)
        calls = refuse(fs, times=3)
        assert blobs.put_if_absent("u", b"1", "a") == "won"
        assert len(calls) == 4
        calls = refuse(fs, times=1000)
        with pytest.raises(StoreError, match="SlowDown"):
            blobs.read("u")
        assert len(calls) == 8

    def test_a_missing_bucket_is_named(self, s3: Fs) -> None:
        with pytest.raises(MissingFileError, match="there is no bucket 'nowhere'"):
            S3Blobs("s3://nowhere/x", s3()).put_if_absent("u", b"1", "a")

    def test_a_server_that_ignores_conditions_is_refused(self, s3: Fs) -> None:
        fs = s3()
        call = fs.call_s3
        fs.call_s3 = lambda method, **options: call(method, **{k: v for k, v in options.items() if k != "IfNoneMatch"})
        with pytest.raises(StoreError, match="ignores conditional writes"):
            preflight(S3Blobs(f"s3://bucket/{uuid.uuid4().hex}", fs))

    @pytest.mark.parametrize("address", ["127.0.0.1:9", "user:canary@127.0.0.1:9"])
    def test_an_unreachable_server_is_one_line_without_secrets(self, address: str) -> None:
        fs = s3fs.S3FileSystem(
            key="k",
            secret="canary",
            endpoint_url=f"http://{address}",
            config_kwargs={"retries": {"total_max_attempts": 1}},
            skip_instance_cache=True,
        )
        with pytest.raises(StoreError) as caught:
            S3Blobs("s3://bucket/x", fs, max_wait=0.01).read("u")
        assert "\n" not in str(caught.value)
        assert "canary" not in str(caught.value)

    @pytest.mark.parametrize(
        ("code", "message"),
        [
            ("RequestTimeTooSkewed", "this machine's clock is wrong, so S3 refuses its requests; set the clock"),
            ("ExpiredToken", r"S3 refuses \(ExpiredToken\); check credentials"),
            ("AccessDenied", r"S3 refuses \(AccessDenied\); check credentials"),
        ],
    )
    def test_a_refusal_is_explained_and_not_repeated(self, s3: Fs, code: str, message: str) -> None:
        fs = s3()
        blobs, calls = S3Blobs(f"s3://bucket/{uuid.uuid4().hex}", fs), refuse(fs, times=1000, code=code)
        for write in (
            lambda: blobs.put_if_absent("u", b"1", "a"),
            lambda: blobs.replace("u", b"1"),
            lambda: blobs.compare_and_swap("u", b"1", None),
        ):
            calls.clear()
            with pytest.raises(UnwritableError, match=message):
                write()
            assert len(calls) == 1


def lose_answer(fs: s3fs.S3FileSystem, method: str, error: Exception) -> None:
    """Makes the next request of a kind take effect, and its answer get lost."""
    call = fs.call_s3

    def once(name: str, **options: Any) -> Any:
        answer = call(name, **options)
        if name == method:
            fs.call_s3 = call
            raise error
        return answer

    fs.call_s3 = once


def refuse(fs: s3fs.S3FileSystem, times: int, code: str = "SlowDown") -> list[str]:
    """Makes the next requests be refused, as too many unless said otherwise."""
    call, calls = type(fs).call_s3.__get__(fs), []

    def busy(name: str, **options: Any) -> Any:
        calls.append(name)
        if len(calls) <= times:
            error = OSError(errno.EBUSY, "No")
            error.__cause__ = RuntimeError()
            error.__cause__.response = {"Error": {"Code": code}}  # type: ignore[attr-defined]
            raise error
        return call(name, **options)

    fs.call_s3 = busy
    return calls


class TestLocal:
    def test_staging_is_empty_after_every_write(self, tmp_path: Path) -> None:
        blobs = LocalBlobs(tmp_path)
        blobs.put_if_absent("scores/a", b"1", "x")
        blobs.put_if_absent("scores/a", b"2", "y")
        blobs.replace("scores/a", b"3")
        assert os.listdir(tmp_path / "_meta/staging") == []

    @pytest.mark.parametrize("failing", ["write", "fsync"])
    def test_a_full_disk_is_a_clean_error_and_leaves_nothing(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: str
    ) -> None:
        blobs = LocalBlobs(tmp_path)
        blobs.replace("scores/a", b"old")

        def full(*_: Any) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        if failing == "fsync":
            monkeypatch.setattr(os, "fsync", full)
        else:
            monkeypatch.setattr("builtins.open", lambda *_a, **_k: open_full(full))
        for write in (
            lambda: blobs.put_if_absent("scores/b", b"new", "x"),
            lambda: blobs.replace("scores/a", b"new"),
        ):
            with pytest.raises(DiskFullError, match="no space left"):
                write()
        monkeypatch.undo()
        assert blobs.list("scores") == ["scores/a"]
        assert blobs.read("scores/a") == b"old"
        assert blobs.list("_meta/staging") == []

    def test_a_folder_that_vanished_is_not_made_again(self, tmp_path: Path) -> None:
        blobs = LocalBlobs(tmp_path / "r")
        blobs.replace("scores/a", b"1")
        (tmp_path / "r").rename(tmp_path / "away")
        for path in ("scores/b", "failures/b"):
            with pytest.raises(MissingFileError, match="is not there"):
                blobs.put_if_absent(path, b"1", "x")
        assert not (tmp_path / "r").exists()

    def test_a_file_in_place_of_the_folder_is_an_error(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("")
        for root in (tmp_path / "file", tmp_path / "file/deeper"):
            with pytest.raises(UnwritableError, match="expected a folder"):
                LocalBlobs(root)

    def test_a_folder_that_refuses_is_named(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def refuse(*_: Any) -> None:
            raise PermissionError(errno.EROFS, "Read-only file system")

        blobs = LocalBlobs(tmp_path)
        monkeypatch.setattr(os, "link", refuse)
        with pytest.raises(UnwritableError, match=r"scores/a: Read-only file system; .*--results"):
            blobs.put_if_absent("scores/a", b"1", "x")
        assert blobs.list("_meta/staging") == []

    def test_what_a_killed_writer_left_is_cleaned(self, tmp_path: Path) -> None:
        blobs = LocalBlobs(tmp_path)
        version = blobs.compare_and_swap("_meta/lease.json", b"1", None)
        (tmp_path / "_meta/staging" / uuid.uuid4().hex).write_bytes(b"x")
        (tmp_path / "_meta/staging/mine").write_bytes(b"x")
        blobs.clean()
        assert [p for p in blobs.list("_meta/staging") if not p.endswith(".lock")] == ["_meta/staging/mine"]
        assert blobs.compare_and_swap("_meta/lease.json", b"2", version) is not None

    @pytest.mark.parametrize("what", ["link out", "link to nothing", "folder", "pipe"])
    @pytest.mark.parametrize("name", list(USES))
    def test_what_is_no_file_is_named_and_neither_followed_nor_waited_for(
        self, tmp_path: Path, what: str, name: str
    ) -> None:
        outside, place = tmp_path / "outside", tmp_path / "results" / "scores" / "a"
        outside.write_bytes(b"precious")
        blobs = LocalBlobs(tmp_path / "results")
        blobs.replace("scores/b", b"mine")
        if what == "folder":
            place.mkdir()
        elif what == "pipe":
            os.mkfifo(place)
        else:
            place.symlink_to(outside if what == "link out" else tmp_path / "results" / "scores" / "none")
        gone = what == "link to nothing" and name in ("read", "read_range", "size")
        fine = what == "link to nothing" and name in ("read_versioned", "replace", "exists", "compare_and_swap")
        fine |= what == "pipe" and name in ("replace", "delete")
        if fine or (what.startswith("link") and name == "delete"):
            USES[name](blobs, "scores/a")
        else:
            with pytest.raises(MissingFileError if gone else StoreError, match="scores/a"):
                USES[name](blobs, "scores/a")
        assert outside.read_bytes() == b"precious"
        assert blobs.read("scores/b") == b"mine"

    @pytest.mark.parametrize("folder", layout.FOLDERS)
    @pytest.mark.parametrize("inside", [False, True])
    def test_no_folder_of_results_is_a_link(self, tmp_path: Path, folder: str, inside: bool) -> None:
        root = tmp_path / "results"
        blobs = LocalBlobs(root)
        target = root / "somewhere" if inside else tmp_path / "outside"
        target.mkdir()
        (target / uuid.uuid4().hex).write_text("precious")
        (root / folder).parent.mkdir(parents=True, exist_ok=True)
        (root / folder).symlink_to(target)
        before = sorted(target.iterdir())
        with pytest.raises(UnwritableError, match=f"{folder}: a link to .*expected the file or folder itself"):
            open_store(str(root))
        # Put there while a driver is at work.
        uses = [*USES.values(), lambda blobs, path: blobs.list(folder)]
        for use in uses:
            with pytest.raises(UnwritableError, match="a link to"):
                use(blobs, f"{folder}/x")
        if folder in ("_meta", "_meta/staging"):
            with pytest.raises(UnwritableError, match="a link to"):
                blobs.clean()
        assert sorted(target.iterdir()) == before

    def test_a_lock_is_no_way_out(self, tmp_path: Path) -> None:
        outside, root = tmp_path / "outside", tmp_path / "results"
        outside.write_text("precious")
        blobs = LocalBlobs(root)
        blobs.replace("_meta/x", b"x")
        (root / "_meta/staging/_meta.lease.json.lock").symlink_to(outside)
        with pytest.raises(UnwritableError, match="a link to"):
            blobs.compare_and_swap("_meta/lease.json", b"1", None)
        assert outside.read_text() == "precious"

    def test_a_root_may_be_a_link_and_so_may_a_file_that_stays_inside(self, tmp_path: Path) -> None:
        (tmp_path / "disk").mkdir()
        (tmp_path / "results").symlink_to(tmp_path / "disk")
        blobs = LocalBlobs(tmp_path / "results")
        blobs.replace("scores/a", b"1")
        blobs.replace("kept/a", b"2")
        (tmp_path / "results/scores/b").symlink_to("../kept/a")
        assert (blobs.read("scores/a"), blobs.read("scores/b")) == (b"1", b"2")
        assert blobs.list("scores") == ["scores/a", "scores/b"]

    @pytest.mark.parametrize("reading", [True, False])
    def test_who_may_not_read_or_write_is_told_what_to_do(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reading: bool
    ) -> None:
        def refuse(*_: Any, **__: Any) -> None:
            raise PermissionError(errno.EACCES, "Permission denied")

        blobs = LocalBlobs(tmp_path)
        blobs.replace("scores/a", b"1")
        monkeypatch.setattr(os, "open" if reading else "replace", refuse)
        message = "this user may read" if reading else "make it so, copy the results to one that is, or begin new ones"
        with pytest.raises(StoreError, match=rf"scores/a: Permission denied; expected .*{message}"):
            blobs.read("scores/a") if reading else blobs.replace("scores/a", b"2")

    def test_little_space_is_refused_before_the_start(self, tmp_path: Path) -> None:
        with pytest.raises(DiskFullError, match="the sweep needs about"):
            preflight(LocalBlobs(tmp_path), needed_bytes=10**18)

    @pytest.mark.parametrize(("root", "message"), [("gs://b/x", "expected a folder or s3"), ("s3://", "no bucket")])
    def test_addresses_that_are_none_are_refused(self, root: str, message: str) -> None:
        with pytest.raises(StoreError, match=message):
            open_store(root)

    def test_a_folder_without_a_sweep_is_not_opened_for_reading(self, tmp_path: Path) -> None:
        for root in (tmp_path, tmp_path / "none"):
            with pytest.raises(MissingFileError):
                open_store(str(root), create=False)
        assert not (tmp_path / "none").exists()

    def test_a_worker_that_sees_no_folder_or_an_empty_one_says_so(self, tmp_path: Path) -> None:
        marker = preflight(LocalBlobs(tmp_path / "driver"))
        for root in (tmp_path / "none", tmp_path):
            with pytest.raises(UnwritableError, match=f"{root}: the worker on .* does not see this folder"):
                open_as_worker(str(root), marker)
        assert not (tmp_path / "none").exists()


class open_full:  # noqa: N801 (stands in for the built-in)
    """A file whose writes fail."""

    def __init__(self, write: Callable[..., None]) -> None:
        self.write = write

    def __enter__(self) -> open_full:
        return self

    def __exit__(self, *_: object) -> None:
        pass


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
    part, unit = blobs.read("scores/part-00001.parquet"), blobs.read("_meta/units/u1.parquet")
    copies = {
        "scores/part-00001 (1).parquet": part,
        "scores/part-00002.parquet": part,
        "_meta/units/copy.parquet": unit,
    }
    others = ["scores/.DS_Store", "_meta/units/._u1.parquet", "_meta/manifest/00001 (1).json", "notes/x.txt"]
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


def test_results_in_a_bucket_read_with_pandas(s3: Fs) -> None:
    fs = s3()
    root = f"bucket/{uuid.uuid4().hex}"
    store = Store(S3Blobs(f"s3://{root}", fs))
    store.write_schemas("a")
    for unit_id in ("u1", "u2"):
        store.commit_unit(unit_id, {"scores": make_table("scores", [{"unit_id": unit_id, "clip_score": 0.5}])}, "a")
    Publisher(store).publish(flush=True)
    assert verify(store) == []
    frame = pd.read_parquet(f"{root}/scores", filesystem=fs)
    assert sorted(frame["unit_id"]) == ["u1", "u2"]
