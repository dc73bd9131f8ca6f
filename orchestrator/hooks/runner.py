"""Calls hooks, each in a thread of its own: one that fails is a warning, one that hangs is left behind."""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from loco_core.localization.base import Localization
from orchestrator.hooks import LEFT_BEHIND
from orchestrator.hooks.events import Failure, RunEnd, RunStart, failure_of
from orchestrator.scheduler.host import one_line
from orchestrator.scheduler.progress import Progress
from orchestrator.scheduler.protocol import Settled
from orchestrator.stages.edit.summary import EditSummary

PROGRESS_SECONDS = 10.0
MOST_WAITING = 1000
"""Calls that may wait for a hook; those beyond are passed over."""
DRAIN_SECONDS = 30.0
"""How long the end of a run waits for all hooks together."""
logger = logging.getLogger(__name__)

Event = RunStart | Progress | Localization | EditSummary | Failure | RunEnd


@dataclass(frozen=True)
class Maker:
    """A hook that is to be made.

    Attributes:
        name: its name, for warnings.
        make: makes the object whose methods are called; what it imports takes no time of the run.
        needs: the package that it imports; empty for none.
        extra: the extra of this project that brings the package.
    """

    name: str
    make: Callable[[], object]
    needs: str = ""
    extra: str = ""


@dataclass(frozen=True)
class _Call:
    method: str
    event: Event


@dataclass(eq=False)
class _Hook(threading.Thread):
    """One hook, and what it was not called with yet."""

    maker: Maker
    calls: queue.SimpleQueue[_Call | None] = field(default_factory=queue.SimpleQueue)
    failed: int = 0
    skipped: int = 0

    def __post_init__(self) -> None:
        # A daemon: one that hangs does not keep the process.
        super().__init__(daemon=True, name=f"hook {self.maker.name}")

    def add(self, call: _Call, *, always: bool) -> None:
        """Queues a call, unless too many wait; progress only where nothing waits.

        Args:
            call: the call.
            always: whether it is queued all the same.
        """
        waiting = self.calls.qsize()
        if isinstance(call.event, Progress) and waiting and not always:
            return
        if waiting >= MOST_WAITING and not always:
            if not self.skipped:
                logger.warning("hook %s is slow: %d calls wait, and some are passed over", self.maker.name, waiting)
            self.skipped += 1
            return
        self.calls.put(call)

    def run(self) -> None:
        """Makes the hook, and calls it until the end."""
        hook: object = None
        try:
            hook = self.maker.make()
        except BaseException as error:  # whatever a stranger's code raises, SystemExit included
            self._warn(error)
        while (call := self.calls.get()) is not None:
            method = getattr(hook, call.method, None)
            if method is None:
                continue
            try:
                method(call.event)
            except BaseException as error:  # as above
                self._warn(error)
                if isinstance(call.event, RunStart):
                    # The other calls rest on it.
                    hook = None

    def _warn(self, error: BaseException) -> None:
        self.failed += 1
        if self.failed > 1:
            return
        why = f"{type(error).__name__}: {one_line(error)}"
        if isinstance(error, ModuleNotFoundError) and error.name == self.maker.needs:
            why = missing(self.maker)
        logger.warning("hook %s: %s; the run goes on", self.maker.name, why)


def missing(maker: Maker) -> str:
    """Says that the package of a hook is not there."""
    return f"{maker.needs} is not installed; `pip install 'loco-sweep[{maker.extra}]'` installs it"


class Hooks:
    """All hooks of a run. Its methods return at once, and may be called from any thread."""

    def __init__(self, makers: Sequence[Maker] = ()) -> None:
        """Starts nothing yet.

        Args:
            makers: the hooks.
        """
        self._hooks = [_Hook(maker) for maker in makers]
        self._next, self._latest, self._began = 0.0, Progress(), time.monotonic()
        self._started = self._ended = False

    @property
    def active(self) -> bool:
        """Whether there are any."""
        return bool(self._hooks)

    def start(self, run: RunStart) -> None:
        """Says that a run begins."""
        self._began, self._started = time.monotonic(), True
        for hook in self._hooks:
            hook.start()
        self._call("on_start", run)

    def progress(self, progress: Progress) -> None:
        """Says how far the run is; called a few times a second, passed on every few seconds."""
        self._latest = progress
        if time.monotonic() >= self._next:
            self._next = time.monotonic() + PROGRESS_SECONDS
            self._call("on_progress", progress)

    def localized(self, found: Localization) -> None:
        """Says what was localized."""
        self._call("on_localized", found)

    def edited(self, found: Sequence[EditSummary]) -> None:
        """Says what edits did that were chosen."""
        for edit in found:
            self._call("on_edited", edit)

    def settled(self, done: Sequence[Settled]) -> None:
        """Says which units were given up."""
        for item in done:
            if item.report.outcome == "failed":
                self._call("on_failed", failure_of(item))

    def end(self, make: Callable[[float, Progress], RunEnd]) -> None:
        """Says how the run ended.

        Args:
            make: called with the seconds of the run and its latest progress.
        """
        if not self._started or self._ended:
            return
        self._ended = True
        self._call("on_progress", self._latest, always=True)
        self._call("on_end", make(time.monotonic() - self._began, self._latest), always=True)

    def close(self, seconds: float) -> None:
        """Waits for hooks that are at work still, and says which it leaves behind.

        Args:
            seconds: to wait at most, for all of them together.
        """
        if not self._started:
            return
        until = time.monotonic() + seconds
        for hook in self._hooks:
            hook.calls.put(None)
        for hook in self._hooks:
            hook.join(max(0.0, until - time.monotonic()))
            if hook.is_alive():
                LEFT_BEHIND.add(hook.maker.name)
                logger.warning(
                    "hook %s is at work %.0f s after the end of the run, and is left behind", hook.maker.name, seconds
                )
            elif hook.failed > 1:
                logger.warning("hook %s failed %d more times", hook.maker.name, hook.failed - 1)

    def _call(self, method: str, event: Event, *, always: bool = False) -> None:
        for hook in self._hooks:
            hook.add(_Call(method, event), always=always)


@contextmanager
def watching(makers: Sequence[Maker]) -> Iterator[Hooks]:
    """Yields the hooks of a run; at its end they are waited for, and an error is passed on to them.

    Args:
        makers: the hooks.
    """
    hooks = Hooks(makers)
    try:
        yield hooks
    except BaseException as error:
        stopped = isinstance(error, KeyboardInterrupt)
        why = "stopped at once" if stopped else one_line(error)
        hooks.end(lambda seconds, progress: RunEnd("stopped" if stopped else "error", why, seconds, progress))
        raise
    finally:
        hooks.close(DRAIN_SECONDS)
