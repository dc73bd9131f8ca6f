"""``report``: one HTML page of what was found."""

from __future__ import annotations

import time
from typing import Annotated

import typer

from orchestrator.cli.options import Results


def report(
    results: Results,
    watch: Annotated[
        bool, typer.Option("--watch", help="Write it again and again for as long as the sweep runs.")
    ] = False,
    every: Annotated[float, typer.Option(min=10, help="Seconds between two writings of --watch.")] = 30.0,
) -> None:
    """Write report.html into the results: what was found, with pictures; opens without a network."""
    from orchestrator.reporting import write_report
    from orchestrator.stages.sweep import units_left
    from orchestrator.store import open_store
    from orchestrator.store.lease import holder

    store, before = open_store(results, create=False), None
    # A driver that lives renews its lease several times between two looks.
    while watch and (now := holder(store.blobs)) not in (None, before):
        before, (left, planned) = now, units_left(store)
        running = f"{planned - left} of {planned} units of the sweep are done"
        print(f"{write_report(store, running)}: {running}", flush=True)
        try:
            time.sleep(every)
        except KeyboardInterrupt:
            break
    print(write_report(store))
