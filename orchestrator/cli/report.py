"""``report``: one HTML page of what was found."""

from __future__ import annotations

import time
from typing import Annotated

import typer

from orchestrator.cli.options import Results


def report(
    results: Results,
    watch: Annotated[bool, typer.Option("--watch", help="Write it again and again while the sweep runs.")] = False,
    open_page: Annotated[bool, typer.Option("--open", help="Open the report in a browser.")] = False,
    every: Annotated[float, typer.Option(min=10, help="Seconds between two reports of --watch.")] = 30.0,
) -> None:
    """Write the report, one HTML page.

    report.html in the results shows what was found, with pictures; it opens without a network.
    """
    from orchestrator.reporting import write_report
    from orchestrator.stages.sweep.stored import units_left
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
    page = write_report(store)
    print(page)
    if open_page:
        _open(page)


def _open(page: str) -> None:
    """Opens a page in a browser, which has no keys of a bucket."""
    import webbrowser
    from pathlib import Path

    from loco_core.errors import SpecError

    if "://" in page:
        raise SpecError(f"--open: {page} lies in a bucket; copy it to this machine and open the copy")
    if not webbrowser.open(Path(page).absolute().as_uri()):
        raise SpecError(f"--open: no browser was found; open {page} yourself")
