"""How far a run is: a live bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import TYPE_CHECKING

from loco_core.errors import printable
from orchestrator.face.terminal import console

if TYPE_CHECKING:
    from rich.progress import Progress as Bar

    from loco_core.localization.base import Localization
    from orchestrator.scheduler.progress import Progress

LINE_SECONDS = 15.0


class Reporter:
    """Tells a person how far a run is and what was found."""

    def __init__(self, bar: Bar | None, *, silent: bool = False) -> None:
        self._bar, self._silent = bar, silent
        self._task = bar.add_task("", total=None, text="starting") if bar else None
        self._next, self._stopping = 0.0, False

    def progress(self, progress: Progress) -> None:
        """Shows progress; called a few times a second."""
        if progress.stopping and not self._stopping:
            said = "stopping after the units that are running; a second Ctrl-C stops now"
            if progress.used_up:
                said = f"the budget is reached ({progress.used_up}): stopping after the units that are running"
            self.say(said)
        self._stopping = progress.stopping
        settled = progress.before + progress.done + progress.failed
        total, text = settled + progress.left, progress_text(progress)
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=settled, total=total, text=text)
        elif time.monotonic() >= self._next:
            self._next = time.monotonic() + LINE_SECONDS
            self.say(text)

    def localized(self, found: Localization) -> None:
        """Shows what was localized."""
        self.say(f"{found.model} {found.attribute}: {found.outcome}: {found.reason}")

    def say(self, line: str) -> None:
        """Prints a line above the bar."""
        if self._bar is not None:
            self._bar.console.print(printable(line), soft_wrap=True)
        elif not self._silent:
            print(printable(line), flush=True)


@contextmanager
def reporter(*, silent: bool = False) -> Iterator[Reporter]:
    """Yields what reports on a run.

    Args:
        silent: whether it reports nothing at all.
    """
    if silent or not _is_live():
        yield Reporter(None, silent=silent)
        return
    from rich.progress import BarColumn, TextColumn
    from rich.progress import Progress as RichProgress
    from rich.table import Column

    # The bar takes the room that the text leaves, so that nothing of the text is cut on a narrow terminal.
    columns = (BarColumn(None, table_column=Column(ratio=1)), TextColumn("{task.fields[text]}", markup=False))
    with RichProgress(*columns, console=console(), expand=True) as bar:
        yield Reporter(bar)


def _is_live() -> bool:
    """Tells whether a bar can move: on a terminal, or in a notebook that has ipywidgets."""
    if "ipykernel" in sys.modules:
        return console().is_jupyter and find_spec("ipywidgets") is not None
    return sys.stdout.isatty()


def size(count: object) -> str:
    """Returns a number of bytes in words, e.g. ``0.6 GB``."""
    number = float(str(count))
    return f"{number / 1e9:.1f} GB" if number >= 1e8 else f"{number / 1e6:.1f} MB"


def duration(seconds: float) -> str:
    """Returns seconds as a person says them."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = seconds / 60
    return f"{minutes:.0f} min" if minutes < 90 else f"{minutes / 60:.1f} h"


def counted(number: int, noun: str) -> str:
    """Returns a number with its noun, in the plural where it is not one."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def pace(rate: float, eta_seconds: float | None) -> list[str]:
    """Says how fast pictures are made, and how long the rest takes; nothing of what is not known."""
    parts = [f"{rate:.1f} images/s" if rate >= 0.1 else f"{60 * rate:.1f} images/min"] if rate else []
    return parts if eta_seconds is None else [*parts, f"about {duration(eta_seconds)} left"]


def progress_text(progress: Progress) -> str:
    """Says in some 80 letters how far a run is."""
    settled = progress.before + progress.done + progress.failed
    parts = [f"{settled:,}/{settled + progress.left:,} units"]
    if progress.limit == 0 and not progress.stopping:
        parts.append("paused" if not progress.running else f"pausing after {counted(progress.running, 'unit')}")
    elif progress.rate and not progress.stopping:
        parts += pace(progress.rate, progress.eta_seconds if progress.left else None)
    elif progress.stopping:
        parts.append(f"finishing {counted(progress.running, 'unit')}")
    elif progress.running:
        parts.append(f"{counted(progress.workers, 'worker')} at work")
    if progress.loading and not progress.stopping:
        more = f" and {len(progress.loading) - 1} more" if progress.loading[1:] else ""
        parts.append(f"loading {progress.loading[0]}{more}")
    elif progress.pending and not progress.running:
        parts.append(f"{counted(progress.pending, 'worker')} starting")
    if progress.failed:
        parts.append(f"{progress.failed} failed")
    if progress.losses:
        parts.append(f"{counted(progress.losses, 'worker')} lost")
    return ", ".join(parts)
