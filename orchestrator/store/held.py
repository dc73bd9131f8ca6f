"""Storage of whoever holds the lease: nothing is written any more once it is lost or given back."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from orchestrator.store.blobs import Blobs, Kind, Put, Versioned
from orchestrator.store.errors import LeaseLostError


class HeldBlobs:
    """Another storage, for as long as a lease is held. See `orchestrator.store.blobs.Blobs`.

    Threads that outlive their command find it closed.
    """

    def __init__(self, inner: Blobs, alive: Callable[[], bool]) -> None:
        """Wraps a storage.

        Args:
            inner: does the work.
            alive: tells whether the lease is held; asked before everything that is written.
        """
        self._inner, self._alive = inner, alive
        self._writes, self._closed, self._changed = 0, False, threading.Condition()

    def close(self, timeout: float) -> bool:
        """Lets every later call raise `LeaseLostError`, and waits for what is being written.

        Args:
            timeout: seconds to wait at most.

        Returns:
            Whether nothing is being written any more.
        """
        with self._changed:
            self._closed = True
            return self._changed.wait_for(lambda: not self._writes, timeout)

    @property
    def root(self) -> str:
        """See `Blobs`."""
        return self._inner.root

    def put_if_absent(self, path: str, data: bytes, attempt_id: str) -> Put:
        """See `Blobs`."""
        with self._writing():
            return self._inner.put_if_absent(path, data, attempt_id)

    def replace(self, path: str, data: bytes) -> None:
        """See `Blobs`."""
        with self._writing():
            self._inner.replace(path, data)

    def compare_and_swap(self, path: str, data: bytes, expected: str | None) -> str | None:
        """See `Blobs`."""
        with self._writing():
            return self._inner.compare_and_swap(path, data, expected)

    def delete(self, path: str) -> None:
        """See `Blobs`."""
        with self._writing():
            self._inner.delete(path)

    def clean(self) -> None:
        """See `Blobs`."""
        with self._writing():
            self._inner.clean()

    def read(self, path: str) -> bytes:
        """See `Blobs`."""
        return self._open.read(path)

    def read_range(self, path: str, start: int, length: int) -> bytes:
        """See `Blobs`."""
        return self._open.read_range(path, start, length)

    def size(self, path: str) -> int:
        """See `Blobs`."""
        return self._open.size(path)

    def read_versioned(self, path: str) -> Versioned | None:
        """See `Blobs`."""
        return self._open.read_versioned(path)

    def list(self, folder: str) -> list[str]:
        """See `Blobs`."""
        return self._open.list(folder)

    def folders(self, folder: str) -> Sequence[str]:
        """See `Blobs`."""
        return self._open.folders(folder)

    def walk(self, folder: str) -> Sequence[tuple[str, Kind]]:
        """See `Blobs`."""
        return self._open.walk(folder)

    def exists(self, path: str) -> bool:
        """See `Blobs`."""
        return self._open.exists(path)

    def free_bytes(self) -> int | None:
        """See `Blobs`."""
        return self._open.free_bytes()

    @property
    def _open(self) -> Blobs:
        if self._closed:
            raise LeaseLostError(f"{self.root}: the lease was given back; expected nothing to be read or written")
        return self._inner

    @contextmanager
    def _writing(self) -> Iterator[None]:
        if not self._alive():
            raise LeaseLostError(f"{self.root}: another driver took these results over; this command stops")
        with self._changed:
            _ = self._open
            self._writes += 1
        try:
            yield
        finally:
            with self._changed:
                self._writes -= 1
                self._changed.notify_all()
