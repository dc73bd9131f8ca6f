"""Files read many at a time, ahead of need: a bucket takes long to answer, and answers many at once."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

K = TypeVar("K")
V = TypeVar("V")

READERS = 64
"""Files that are read at once: at a tenth of a second a request, 640 a second."""
FEW_READERS = 16
"""As many where files are large, and before that is known."""
AHEAD_BYTES = 256 * 2**20
"""What may be in memory before it is needed, where more than a few files are read at once."""


def read_ahead(read: Callable[[K], V], keys: Iterable[K], size: Callable[[V], int] = lambda value: 0) -> Iterator[V]:
    """Yields what was read, in the order of the keys.

    Args:
        read: reads one; called by other threads.
        keys: what to read.
        size: bytes that a value takes in memory.
    """
    with ThreadPoolExecutor(READERS) as pool:
        waiting: deque[Future[V]] = deque()
        most = FEW_READERS
        try:
            for key in keys:
                waiting.append(pool.submit(read, key))
                if len(waiting) >= most:
                    value = waiting.popleft().result()
                    most = min(READERS, max(FEW_READERS, AHEAD_BYTES // max(1, size(value))))
                    yield value
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()
