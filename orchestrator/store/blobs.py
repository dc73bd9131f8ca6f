"""The contract of storage: the few operations on whole files that everything else is built from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple, Protocol

from loco_core.errors import StoreError

Put = Literal["won", "lost"]
Kind = Literal["file", "folder", "other"]
"""What lies somewhere: ``other`` is a link, a pipe, or what else no storage of results writes."""


class Versioned(NamedTuple):
    """A file's bytes and a token that differs whenever the bytes do."""

    data: bytes
    version: str


class Blobs(Protocol):
    """Whole files under one root, on a disk or in a bucket.

    A path is relative to the root, with ``/``, as `orchestrator.store.layout` makes it. All operations are atomic: a
    reader sees the old bytes, the new bytes or no file, and a crash at any moment leaves one of them. All errors are
    `StoreError`; an operation that raised may or may not have happened, and may be repeated.
    """

    @property
    def root(self) -> str:
        """Address of the root, for people."""

    def put_if_absent(self, path: str, data: bytes, attempt_id: str) -> Put:
        """Publishes a file unless it exists.

        Args:
            path: of the file.
            data: its bytes.
            attempt_id: unique to the caller's attempt; repeating a call that had won, with the same id, wins again
                where the storage can tell.

        Returns:
            ``won``, or ``lost`` where a file was there, which stays as it is.
        """

    def replace(self, path: str, data: bytes) -> None:
        """Writes a file, whole, over whatever was there."""

    def compare_and_swap(self, path: str, data: bytes, expected: str | None) -> str | None:
        """Writes a file if its version is the expected one.

        Args:
            path: of the file.
            data: its bytes; must be unique to the caller, so that a swap whose answer was lost is recognized.
            expected: version as read; None expects no file.

        Returns:
            The new version, or None where the file was not as expected and stays as it is.
        """

    def read(self, path: str) -> bytes:
        """Returns a file's bytes; raises `MissingFileError` where there is none."""

    def read_range(self, path: str, start: int, length: int) -> bytes:
        """Returns bytes from the middle of a file, as many as there are; raises `MissingFileError` where it is none."""

    def size(self, path: str) -> int:
        """Returns how many bytes a file has; raises `MissingFileError` where there is none."""

    def read_versioned(self, path: str) -> Versioned | None:
        """Returns a file's bytes and version, or None where there is none."""

    def list(self, folder: str) -> list[str]:
        """Returns the paths of the files directly in a folder, sorted; always fresh, empty where there is no folder.

        The root itself is the empty text.
        """

    def folders(self, folder: str) -> Sequence[str]:
        """Returns the paths of the folders directly in a folder, sorted; links are none.

        The root itself is the empty text.
        """

    def walk(self, folder: str) -> Sequence[tuple[str, Kind]]:
        """Returns all that lies in a folder, however deep, sorted by path; links are named and not followed."""

    def exists(self, path: str) -> bool:
        """Tells whether a file is there."""

    def delete(self, path: str) -> None:
        """Removes a file; none being there is fine."""

    def free_bytes(self) -> int | None:
        """Returns the space left, or None where there is no such limit."""

    def clean(self) -> None:
        """Removes what killed writers left behind; for the one driver, before workers start."""


def check_inside(root: str, path: str) -> None:
    """Refuses a path that could lead out of a root: storages get paths that tables and documents name.

    Raises:
        StoreError: it is absolute, or has parts such as ``..``.
    """
    if path and (any(part in ("", ".", "..") for part in path.split("/")) or "\\" in path or "\0" in path):
        raise StoreError(f"{root}: {path!r} is no place in a results folder; expected a path such as scores/NAME")
