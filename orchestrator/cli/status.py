"""``status``: how far a sweep is, from its results alone."""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from loco_core.errors import printable
from orchestrator.cli.options import JsonOption, ResultsOrFile

if TYPE_CHECKING:
    from orchestrator.cli.places import Named
    from orchestrator.runs.status import SweepStatus


def status(
    results: ResultsOrFile,
    as_json: JsonOption = False,
    watch: Annotated[bool, typer.Option("--watch", help="Refresh until the sweep ends or is stopped.")] = False,
    every: Annotated[float, typer.Option("--every", min=1, help="Seconds between two refreshes.")] = 15.0,
) -> None:
    """Show progress, failures, cost and outcomes."""
    from orchestrator.cli.places import named
    from orchestrator.runs.status import survey
    from orchestrator.store import open_store

    place = named(results)
    store = open_store(place.results, create=False)
    while True:
        # A job that was just submitted has written nothing yet.
        if not watch or store.sweep() is not None:
            found = survey(store)
            _show(found, place, as_json=as_json)
            # A driver that died may be started again, by `submit --wait` for one.
            stopped = found.driver.stopped is not None and not found.driver.died
            if not watch or (not found.driver.works and (found.units_done == found.units or stopped)):
                return
            print(flush=True)
        time.sleep(every)


def _show(found: SweepStatus, place: Named, *, as_json: bool) -> None:
    from dataclasses import asdict

    from orchestrator.cli.bill import costs, used_lines
    from orchestrator.runs.usage import NO_PRICES

    cluster = place.cluster.spec if place.cluster else None
    prices = cluster.cost if cluster else NO_PRICES
    if as_json:
        print(json.dumps({**asdict(found), **costs(found, prices)}, default=datetime.isoformat), flush=True)
        return
    from orchestrator.cli import table
    from orchestrator.cli.outcome import span
    from orchestrator.face.progress import counted
    from orchestrator.runs.failures import advice

    table.show(
        ("model", "attribute", "units", "cells", "invalid", "failed", "outcome", "sites"),
        [
            (
                row.model, row.attribute, f"{row.units_done}/{row.units}", row.ok, row.invalid, row.failed, row.outcome,
                span(row.window_start, row.window_size) if row.window_size and row.window_start is not None else None,
            )
            for row in found.blocks
        ],
        title=printable(found.name), right=("units", "cells", "invalid", "failed"),
    )  # fmt: skip
    kinds = "; ".join(f"{item.stage} {item.units_done} of {item.units}" for item in found.stages)
    by_kind = f" ({kinds})" if len(found.stages) > 1 else ""
    print(printable(f"{found.name}: {found.units_done} of {found.units} units done{by_kind}"))
    for line in advice(found.failed, place.results):
        print(printable(line))
    print(driver_line(found, place.resume, datetime.now(UTC)))
    if place.cluster is not None and place.cluster.spec.cluster.slurm is not None:
        from orchestrator.submit import slurm

        if job := slurm.state_line(place.cluster):
            print(job)
    if found.most_workers and not found.paused:
        print(f"at most {counted(found.most_workers, 'worker')}; `loco-sweep scale` changes that")
    if found.paused:
        print(printable(f"paused: no new units are begun until `loco-sweep resume {place.results}`"))
    for line in used_lines(found, prices, cluster.budget if cluster else None):
        print(printable(line))


def driver_line(found: SweepStatus, resume: str, now: datetime) -> str:
    """Says whether a driver is at work, and how fast; of one that is not, how the sweep goes on.

    Args:
        found: the status.
        resume: the command that resumes.
        now: the time.
    """
    if found.driver.works:
        return _pace(found.progress, now) if found.progress else "a driver is at work; it has begun no unit yet"
    ago = f"{_ago(found.driver.stopped, now)} ago" if found.driver.stopped else "some time ago"
    if found.finished:
        return f"no driver is running: the last one finished {ago}"
    done = f"{found.units_done} of {found.units} units done"
    ended = "died" if found.driver.died else "stopped"
    if found.outcome == "over_budget":
        ended = "stopped at its budget"
    what = f"the last one {ended} {ago}, {done}" if found.driver.stopped else done
    return f"no driver is running ({what}); `{resume}` resumes"


def _pace(progress: dict[str, Any], now: datetime) -> str:
    from orchestrator.face.progress import counted, pace

    written = datetime.fromisoformat(progress["written_at"])
    parts = [counted(progress["workers"], "worker") + " at work"]
    if progress["pending"]:
        loading = f" (loading {', '.join(progress['loading'])})" if progress["loading"] else ""
        parts.append(f"{progress['pending']} starting{loading}")
    if progress.get("limit") != 0:
        parts += pace(progress["rate"], progress["eta_seconds"] if progress["left"] else None)
    if progress["retries"]:
        parts.append(counted(progress["retries"], "attempt") + " failed")
    if progress["losses"]:
        parts.append(counted(progress["losses"], "worker") + " lost with their machine")
    return f"{', '.join(parts)} (as of {_ago(written, now)} ago)"


def _ago(then: datetime, now: datetime) -> str:
    from orchestrator.face.progress import duration

    return duration(max(0.0, (now - then).total_seconds()))
