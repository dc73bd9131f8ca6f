"""What a terminal is shown: names as they stand, never taken for markup, nor able to steer the terminal."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

# Control characters, and those that turn the direction of all that follows.
_STEERING = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


def literal(text: str) -> str:
    """Returns a text with what would steer a terminal written out, as Python writes it; line ends are kept."""
    return _STEERING.sub(lambda found: ascii(found[0])[1:-1], text)


def console(*, stderr: bool = False) -> Console:
    """Returns a console to which ``[x]`` and ``:x:`` are letters like others.

    Args:
        stderr: whether it writes to standard error.
    """
    from rich.console import Console

    return Console(markup=False, emoji=False, highlight=False, stderr=stderr)
