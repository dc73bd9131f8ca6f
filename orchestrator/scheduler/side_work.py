"""Work beside the loop: tables are made in a thread of their own, one job after another.

The loop goes on meanwhile; a worker waits only where its next unit follows from a job.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from orchestrator.scheduler.protocol import Unit

T = TypeVar("T")


@dataclass(eq=False)
class _Job:
    job: Callable[[], Any]
    then: Callable[[Any], Sequence[Unit]] | None
    result: Any = None
    error: BaseException | None = None


class SideWork:
    """Jobs that run one after another beside the loop; what follows from them is done in the loop's thread.

    All methods are for one thread, that of the loop. Nothing is started before the first job.
    """

    def __init__(self) -> None:
        """Starts with nothing to do."""
        self._changed = threading.Condition()
        self._waiting: deque[_Job] = deque()
        self._running: _Job | None = None
        self._ended: deque[_Job] = deque()
        self._thread: threading.Thread | None = None
        self._closed = False
        self._failed = False

    def submit(self, job: Callable[[], T], then: Callable[[T], Sequence[Unit]] | None = None) -> None:
        """Queues a job.

        Args:
            job: runs in the other thread, after those that were submitted before it. It must touch nothing that the
                loop's thread changes meanwhile.
            then: called with the job's result in the loop's thread; returns the units that follow. None where nothing
                does: idle workers are let go while such a job runs.
        """
        with self._changed:
            if self._closed or self._failed:
                return
            self._waiting.append(_Job(job, then))
            self._changed.notify_all()
        if self._thread is None:
            # A daemon: whoever asks twice for an end does not wait for it.
            self._thread = threading.Thread(target=self._work, name="side work", daemon=True)
            self._thread.start()

    @property
    def busy(self) -> bool:
        """Whether there are jobs whose end was not taken."""
        with self._changed:
            return bool(self._waiting or self._running or self._ended)

    @property
    def awaited(self) -> bool:
        """Whether units may follow from one of them."""
        with self._changed:
            jobs = [*self._waiting, *self._ended, *([self._running] if self._running else [])]
        return any(job.then is not None for job in jobs)

    @property
    def finished(self) -> bool:
        """Whether there is an end to be taken."""
        return bool(self._ended)

    def take(self) -> list[Unit]:
        """Returns the units that follow from the jobs that have ended since the last call.

        Raises:
            BaseException: whatever a job raised; jobs that were submitted since are dropped.
        """
        units: list[Unit] = []
        while self._ended:
            ended = self._ended.popleft()
            if ended.error is not None:
                self._failed = False
                raise ended.error
            if ended.then is not None:
                units += ended.then(ended.result)
        return units

    def close(self) -> None:
        """Drops the jobs that have not begun; that which runs goes on, and nothing follows from it."""
        with self._changed:
            self._closed = True
            self._waiting.clear()
            self._ended.clear()
            self._changed.notify_all()

    def wait(self, timeout: float | None = None) -> bool:
        """Waits for the jobs that were submitted.

        Args:
            timeout: seconds to wait at most; None waits as long as it takes.

        Returns:
            Whether none is left.
        """
        with self._changed:
            return self._changed.wait_for(lambda: not self._waiting and self._running is None, timeout)

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._closed)
                if self._closed:
                    return
                job = self._running = self._waiting.popleft()
            try:
                job.result = job.job()
            except BaseException as error:
                job.error = error
            with self._changed:
                self._running = None
                if job.error is not None:
                    # What was to follow was to build on it, until the loop has heard of it.
                    self._failed = True
                    self._waiting.clear()
                if not self._closed:
                    self._ended.append(job)
                self._changed.notify_all()
