"""How long something waits, on a machine that is busy with something else."""

from __future__ import annotations

import time
from pathlib import Path

_SCHEDULED = Path("/proc/thread-self/schedstat")


def waited() -> float:
    """Returns a clock that goes on only while this thread waits for something other than a processor, in seconds.

    What a thread sleeps, and waits for answers, is a matter of what it does; how long it computes, and stands in the
    queue of a processor, is one of the machine. Where the system does not tell, all time counts.
    """
    on_processor, in_queue = map(int, _SCHEDULED.read_text().split()[:2]) if _SCHEDULED.exists() else (0, 0)
    return time.monotonic() - (on_processor + in_queue) / 1e9
