"""What storages of objects have in common whose conditions a small client checks: see `gcs` and `azure`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from typing import Literal, NamedTuple, TypeVar

from loco_core.errors import StoreError
from orchestrator.store.blobs import Kind, Put, Versioned, check_inside
from orchestrator.store.errors import MissingFileError

T = TypeVar("T")
Condition = str | Literal[True] | None
"""What must be there for a write: a version, nothing (None), or anything (True)."""


class ConditionError(Exception):
    """Something else is there than a write asked for."""


class Page(NamedTuple):
    """Part of a listing.

    Attributes:
        keys: keys of objects.
        prefixes: what keys below have in common, each with a slash at its end.
    """

    keys: Sequence[str]
    prefixes: Sequence[str]


class ObjectBlobs(ABC):
    """A prefix of a bucket. See `orchestrator.store.blobs.Blobs`."""

    def __init__(self, scheme: str, url: str) -> None:
        """Reads an address.

        Args:
            scheme: what it begins with.
            url: ``scheme://bucket/prefix``.

        Raises:
            StoreError: the address names no bucket.
        """
        bucket, _, prefix = url.removeprefix(f"{scheme}://").strip("/").partition("/")
        if not bucket:
            raise StoreError(f"{url}: no bucket; expected {scheme}://bucket/folder")
        self._scheme, self._bucket, self._prefix = scheme, bucket, f"{prefix}/" if prefix else ""

    @property
    def root(self) -> str:
        """The address."""
        return f"{self._scheme}://{self._bucket}/{self._prefix}".rstrip("/")

    def put_if_absent(self, path: str, data: bytes, attempt_id: str) -> Put:
        """See `Blobs`. A refusal by an object that carries this attempt's id is this attempt's own success."""
        try:
            self._ask(path, lambda: self._put(self._key(path), data, None, attempt_id))
        except ConditionError:
            return "won" if self._ask(path, lambda: self._attempt_of(self._key(path))) == attempt_id else "lost"
        return "won"

    def replace(self, path: str, data: bytes) -> None:
        """See `Blobs`."""
        self._ask(path, lambda: self._put(self._key(path), data, True, ""))

    def compare_and_swap(self, path: str, data: bytes, expected: str | None) -> str | None:
        """See `Blobs`."""
        try:
            return self._ask(path, lambda: self._put(self._key(path), data, expected, ""))
        except ConditionError:
            current = self.read_versioned(path)
            return current.version if current is not None and current.data == data else None

    def read(self, path: str) -> bytes:
        """See `Blobs`."""
        return self._ask(path, lambda: self._get(self._key(path))).data

    def read_range(self, path: str, start: int, length: int) -> bytes:
        """See `Blobs`."""
        return self._ask(path, lambda: self._get(self._key(path), (start, length))).data if length > 0 else b""

    def size(self, path: str) -> int:
        """See `Blobs`."""
        return self._ask(path, lambda: self._size(self._key(path)))

    def read_versioned(self, path: str) -> Versioned | None:
        """See `Blobs`."""
        try:
            return self._ask(path, lambda: self._get(self._key(path)))
        except MissingFileError:
            return None

    def list(self, folder: str) -> list[str]:
        """See `Blobs`."""
        return [*self._files(folder, "/")]

    def folders(self, folder: str) -> Sequence[str]:
        """See `Blobs`. There are none: they are the beginnings that keys have in common."""
        found = (prefix for page in self._listed(folder, "/") for prefix in page.prefixes)
        return sorted(name for prefix in found if (name := prefix.removeprefix(self._prefix).rstrip("/")))

    def walk(self, folder: str) -> Sequence[tuple[str, Kind]]:
        """See `Blobs`. There are files only."""
        return [(path, "file") for path in self._files(folder, "")]

    def exists(self, path: str) -> bool:
        """See `Blobs`."""
        try:
            self.size(path)
        except MissingFileError:
            return False
        return True

    def delete(self, path: str) -> None:
        """See `Blobs`."""
        try:
            self._ask(path, lambda: self._remove(self._key(path)))
        except MissingFileError:
            return

    def free_bytes(self) -> int | None:
        """See `Blobs`."""
        return None

    def clean(self) -> None:  # noqa: B027
        """See `Blobs`. One request leaves nothing behind."""

    def _key(self, path: str) -> str:
        check_inside(self.root, path)
        return f"{self._prefix}{path}"

    def _files(self, folder: str, delimiter: str) -> Sequence[str]:
        keys = (key for page in self._listed(folder, delimiter) for key in page.keys)
        # Consoles make empty objects that stand for folders.
        return sorted(key.removeprefix(self._prefix) for key in keys if not key.endswith("/"))

    def _listed(self, folder: str, delimiter: str) -> Sequence[Page]:
        check_inside(self.root, folder)
        prefix = f"{self._prefix}{folder}/" if folder else self._prefix
        return self._ask(folder, lambda: [*self._pages(prefix, delimiter)])

    def _ask(self, path: str, request: Callable[[], T]) -> T:
        try:
            return request()
        except ConditionError:
            raise
        except Exception as error:
            raise self._error(f"{self.root}/{path}", error) from error

    @abstractmethod
    def _put(self, key: str, data: bytes, condition: Condition, attempt_id: str) -> str:
        """Writes an object and returns its version; raises `ConditionError`."""

    @abstractmethod
    def _get(self, key: str, part: tuple[int, int] | None = None) -> Versioned:
        """Reads an object, or what there is of a part of it."""

    @abstractmethod
    def _size(self, key: str) -> int:
        """Returns the size of an object."""

    @abstractmethod
    def _attempt_of(self, key: str) -> str | None:
        """Returns the attempt that an object carries."""

    @abstractmethod
    def _remove(self, key: str) -> None:
        """Removes an object."""

    @abstractmethod
    def _pages(self, prefix: str, delimiter: str) -> Iterator[Page]:
        """Yields the pages of a listing."""

    @abstractmethod
    def _error(self, where: str, error: Exception) -> StoreError:
        """Returns an error of the client as one that a person can act on."""
