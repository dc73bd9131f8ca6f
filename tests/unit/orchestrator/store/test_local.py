"""What a disk alone does: full or vanished, links, pipes and folders in the place of files, no rights."""

from __future__ import annotations

import errno
import os
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from orchestrator.store import (
    DiskFullError,
    MissingFileError,
    StoreError,
    UnwritableError,
    layout,
    open_as_worker,
    open_store,
    preflight,
)
from orchestrator.store.blobs import Blobs
from orchestrator.store.local import LocalBlobs

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

    @pytest.mark.parametrize("folder", layout.folders())
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

    @pytest.mark.parametrize(
        ("root", "message"),
        [("hdfs://b/x", "expected a folder, or one of s3://bucket/folder, gs://"), ("s3://", "no bucket")],
    )
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
