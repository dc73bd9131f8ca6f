"""What a terminal is shown: names as they stand, never taken for markup; and nothing more once it is gone."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from rich.console import Console


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
