"""``scale``, ``pause``, ``resume``: what a run is asked for from outside, by a document in its results."""

from __future__ import annotations

from typing import Annotated

import typer

from loco_core.errors import SpecError, printable
from orchestrator.cli.options import ResultsOrFile


def scale(
    results: ResultsOrFile,
    workers: Annotated[
        str, typer.Argument(help="Number of workers, or auto: as the run was started.", metavar="WORKERS")
    ],
) -> None:
    """Change how many workers a sweep has."""
    from orchestrator.spec.cluster import MAX_WORKERS

    if workers != "auto" and not (workers.isdecimal() and 1 <= int(workers) <= MAX_WORKERS):
        raise SpecError(
            f"{workers!r} is no number of workers; expected 1 to {MAX_WORKERS}, or auto; `pause` lets all go"
        )
    count = None if workers == "auto" else int(workers)
    what = "as many workers as it was started with" if count is None else f"at most {count} worker{'s' * (count > 1)}"
    _ask(results, what, workers=count)


def pause(results: ResultsOrFile) -> None:
    """Finish what runs, then let all workers go."""
    _ask(results, "paused", paused=True)


def resume(results: ResultsOrFile) -> None:
    """Go on after `pause`."""
    from orchestrator.cli.places import named
    from orchestrator.runs.control import control_of
    from orchestrator.store import open_store

    place = named(results)
    if not control_of(open_store(place.results, create=False)).paused:
        print(
            printable(f"{place.results}: not paused, nothing to resume; `{place.resume}` goes on with what has stopped")
        )
        return
    _ask(results, "not paused", paused=False)


def _ask(results: str, what: str, **changes: int | bool | None) -> None:
    from datetime import UTC, datetime

    from orchestrator.cli.places import named
    from orchestrator.runs.control import change_control
    from orchestrator.store import open_store
    from orchestrator.store.lease import driver_state

    place = named(results)
    store = open_store(place.results, create=False)
    change_control(store, **changes)
    works = driver_state(store.blobs, datetime.now(UTC)).works
    when = "its driver follows within seconds" if works else f"it holds for the next driver, `{place.resume}`"
    print(printable(f"{place.results}: {what}; {when}"))
