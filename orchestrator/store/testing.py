"""Storage for tests: in memory, and with faults at the n-th call. For this project's tests and for other storages."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from orchestrator.store.blobs import Blobs, Kind, Put, Versioned
from orchestrator.store.errors import MissingFileError


class CrashError(BaseException):
    """Stands for the death of a process: not an `Exception`, so that nothing recovers from it."""


class MemoryBlobs:
    """Files in a dictionary. See `orchestrator.store.blobs.Blobs`."""

    def __init__(self) -> None:
        """Starts empty."""
        self.files: dict[str, bytes] = {}
        self._attempts: dict[str, str] = {}

    @property
    def root(self) -> str:
        """A name for messages."""
        return "memory"

    def put_if_absent(self, path: str, data: bytes, attempt_id: str) -> Put:
        """See `Blobs`."""
        if path in self.files:
            return "won" if self._attempts.get(path) == attempt_id else "lost"
        self.files[path], self._attempts[path] = data, attempt_id
        return "won"

    def replace(self, path: str, data: bytes) -> None:
        """See `Blobs`."""
        self.files[path] = data
        self._attempts.pop(path, None)

    def compare_and_swap(self, path: str, data: bytes, expected: str | None) -> str | None:
        """See `Blobs`."""
        current = self.read_versioned(path)
        if (current.version if current else None) != expected:
            return None
        self.replace(path, data)
        return hashlib.sha256(data).hexdigest()

    def read(self, path: str) -> bytes:
        """See `Blobs`."""
        if path not in self.files:
            raise MissingFileError(f"{path}: no such file")
        return self.files[path]

    def read_range(self, path: str, start: int, length: int) -> bytes:
        """See `Blobs`."""
        return self.read(path)[start : start + length]

    def size(self, path: str) -> int:
        """See `Blobs`."""
        return len(self.read(path))

    def read_versioned(self, path: str) -> Versioned | None:
        """See `Blobs`."""
        data = self.files.get(path)
        return None if data is None else Versioned(data, hashlib.sha256(data).hexdigest())

    def list(self, folder: str) -> list[str]:
        """See `Blobs`."""
        return sorted(path for path in self.files if path.rpartition("/")[0] == folder)

    def folders(self, folder: str) -> Sequence[str]:
        """See `Blobs`."""
        prefix = f"{folder}/" if folder else ""
        below = (path.removeprefix(prefix).partition("/") for path in self.files if path.startswith(prefix))
        return sorted({f"{prefix}{name}" for name, slash, _ in below if slash})

    def walk(self, folder: str) -> Sequence[tuple[str, Kind]]:
        """See `Blobs`."""
        return [(path, "file") for path in sorted(self.files) if path.startswith(f"{folder}/" if folder else "")]

    def exists(self, path: str) -> bool:
        """See `Blobs`."""
        return path in self.files

    def delete(self, path: str) -> None:
        """See `Blobs`."""
        self.files.pop(path, None)

    def free_bytes(self) -> int | None:
        """See `Blobs`."""
        return None

    def clean(self) -> None:
        """See `Blobs`."""


class FaultyBlobs:
    """Storage that fails at its n-th call, and at every call after it: a process that died stays dead.

    Loop ``fail_at`` over 1, 2, 3, ... until a run gets through: then every crash point was tried.
    """

    def __init__(self, inner: Blobs, fail_at: int, *, after: bool, error: BaseException | None = None) -> None:
        """Wraps a storage.

        Args:
            inner: does the work.
            fail_at: first call that fails, from 1.
            after: whether that call takes effect before it fails.
            error: what is raised; None raises `CrashError`.
        """
        self._inner, self._fail_at, self._after, self._error = inner, fail_at, after, error
        self.calls = 0

    @property
    def root(self) -> str:
        """See `Blobs`."""
        return self._inner.root

    def put_if_absent(self, path: str, data: bytes, attempt_id: str) -> Put:
        """See `Blobs`."""
        self._before()
        won = self._inner.put_if_absent(path, data, attempt_id)
        self._afterwards()
        return won

    def replace(self, path: str, data: bytes) -> None:
        """See `Blobs`."""
        self._before()
        self._inner.replace(path, data)
        self._afterwards()

    def compare_and_swap(self, path: str, data: bytes, expected: str | None) -> str | None:
        """See `Blobs`."""
        self._before()
        version = self._inner.compare_and_swap(path, data, expected)
        self._afterwards()
        return version

    def read(self, path: str) -> bytes:
        """See `Blobs`."""
        self._before()
        data = self._inner.read(path)
        self._afterwards()
        return data

    def read_range(self, path: str, start: int, length: int) -> bytes:
        """See `Blobs`."""
        self._before()
        data = self._inner.read_range(path, start, length)
        self._afterwards()
        return data

    def size(self, path: str) -> int:
        """See `Blobs`."""
        self._before()
        size = self._inner.size(path)
        self._afterwards()
        return size

    def read_versioned(self, path: str) -> Versioned | None:
        """See `Blobs`."""
        self._before()
        found = self._inner.read_versioned(path)
        self._afterwards()
        return found

    def list(self, folder: str) -> list[str]:
        """See `Blobs`."""
        self._before()
        paths = self._inner.list(folder)
        self._afterwards()
        return paths

    def folders(self, folder: str) -> Sequence[str]:
        """See `Blobs`."""
        self._before()
        found = self._inner.folders(folder)
        self._afterwards()
        return found

    def walk(self, folder: str) -> Sequence[tuple[str, Kind]]:
        """See `Blobs`."""
        self._before()
        found = self._inner.walk(folder)
        self._afterwards()
        return found

    def exists(self, path: str) -> bool:
        """See `Blobs`."""
        self._before()
        there = self._inner.exists(path)
        self._afterwards()
        return there

    def delete(self, path: str) -> None:
        """See `Blobs`."""
        self._before()
        self._inner.delete(path)
        self._afterwards()

    def free_bytes(self) -> int | None:
        """See `Blobs`."""
        return self._inner.free_bytes()

    def clean(self) -> None:
        """See `Blobs`."""
        self._before()
        self._inner.clean()
        self._afterwards()

    def _before(self) -> None:
        self.calls += 1
        if self.calls > self._fail_at or (self.calls == self._fail_at and not self._after):
            self._fail()

    def _afterwards(self) -> None:
        if self.calls == self._fail_at and self._after:
            self._fail()

    def _fail(self) -> None:
        raise self._error or CrashError(f"crash at storage call {self.calls}")
