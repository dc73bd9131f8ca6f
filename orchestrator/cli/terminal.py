"""What a terminal is shown: names as they stand, never taken for markup."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console


def console(*, stderr: bool = False) -> Console:
    """Returns a console to which ``[x]`` and ``:x:`` are letters like others.

    Args:
        stderr: whether it writes to standard error.
    """
    from rich.console import Console

    return Console(markup=False, emoji=False, highlight=False, stderr=stderr)
