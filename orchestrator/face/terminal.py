"""What a terminal is shown: names as they stand, never taken for markup; and nothing more once it is gone."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from rich.console import Console

    from orchestrator.scheduler.loop import StopSwitch


def console(*, stderr: bool = False) -> Console:
    """Returns a console to which ``[x]`` and ``:x:`` are letters like others.

    Args:
        stderr: whether it writes to standard error.
    """
    from rich.console import Console

    return Console(markup=False, emoji=False, highlight=False, stderr=stderr)


def drop(stream: TextIO) -> None:
    """Lets what is written from now on go nowhere, and what waits: Python does not try that again at its end.

    Args:
        stream: of this process.
    """
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, stream.fileno())
    os.close(nowhere)


@contextmanager
def stoppable(stop: StopSwitch) -> Iterator[None]:
    """Lets Ctrl-C, SIGTERM and a closed terminal stop it: once after what is running, twice now, wherever it is.

    A terminal that closes says so more than once, and counts once. Threads other than the first get no signals.

    Args:
        stop: what is pressed.

    Raises:
        KeyboardInterrupt: it was stopped twice.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    # Of one that is gone nothing tells that it was one.
    terminals = [stream for stream in (sys.stdout, sys.stderr) if stream.isatty()]

    def press(number: int, _: object) -> None:
        again = stop.pressed
        if number == signal.SIGHUP:
            for stream in terminals:
                drop(stream)
            if again:
                return
        stop.press()
        if again:
            raise KeyboardInterrupt

    numbers = [signal.SIGINT, signal.SIGTERM]
    if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:
        # As nohup leaves it.
        numbers.append(signal.SIGHUP)
    before = [signal.signal(number, press) for number in numbers]
    try:
        yield
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)
