"""How far a run is: a live bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from loco_core.errors import printable
from orchestrator.cli.terminal import console

if TYPE_CHECKING:
    from rich.progress import Progress as Bar

    from loco_core.localizers import Localization
    from orchestrator.scheduler.loop import Progress

LINE_SECONDS = 15.0


class Reporter:
    """Tells a person how far a run is and what was found."""

    def __init__(self, bar: Bar | None) -> None:
        self._bar = bar
        self._task = bar.add_task("units", total=None, text="starting") if bar else None
        self._next = 0.0

    def progress(self, progress: Progress) -> None:
        """Shows progress; called a few times a second."""
        total = progress.done + progress.failed + progress.left
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=progress.done + progress.failed, total=total, text=_text(progress))
        elif time.monotonic() >= self._next:
            self._next = time.monotonic() + LINE_SECONDS
            self.say(f"{progress.done + progress.failed}/{total} units, {_text(progress)}")

    def localized(self, found: Localization) -> None:
        """Shows what was localized."""
        self.say(f"{found.model} {found.attribute}: {found.outcome}: {found.reason}")

    def say(self, line: str) -> None:
        """Prints a line above the bar."""
        if self._bar is not None:
            self._bar.console.print(printable(line), soft_wrap=True)
        else:
            print(printable(line), flush=True)


@contextmanager
def reporter() -> Iterator[Reporter]:
    """Yields what reports on a run."""
    if not sys.stdout.isatty():
        yield Reporter(None)
        return
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
    from rich.progress import Progress as RichProgress

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[text]}"))
    with RichProgress(*columns, console=console()) as bar:
        yield Reporter(bar)


def duration(seconds: float) -> str:
    """Returns seconds as a person says them."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = seconds / 60
    return f"{minutes:.0f} min" if minutes < 90 else f"{minutes / 60:.1f} h"


def _text(progress: Progress) -> str:
    parts = [f"{progress.rate:.1f} images/s" if progress.rate else f"{progress.pending} workers starting"]
    if progress.eta_seconds is not None and progress.left:
        parts.append(f"about {duration(progress.eta_seconds)} left")
    if progress.failed:
        parts.append(f"{progress.failed} failed")
    if progress.losses:
        parts.append(f"{progress.losses} workers lost")
    if progress.stopping:
        parts.append("stopping after what is running; press again to stop now")
    return ", ".join(parts)
