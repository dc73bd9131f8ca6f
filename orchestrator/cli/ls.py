"""``ls``: all sweeps below a folder or an address."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Annotated

import typer

from orchestrator.cli.options import JsonOption

HINTS = {
    "paused": "paused: `loco-sweep resume PLACE` goes on",
    "died": "died: the driver was killed, or its machine is gone",
    "failed": "failed: done, but for units or cells that failed",
    "damaged": "damaged: `loco-sweep verify` says what",
}


def ls(
    prefix: Annotated[
        str, typer.Argument(help="A folder, or an address such as s3://bucket/folder.", metavar="PREFIX")
    ] = ".",
    as_json: JsonOption = False,
) -> None:
    """List the sweeps below a folder or address.

    As their drivers wrote last; `status` counts what is committed.
    """
    from dataclasses import asdict

    from orchestrator.cli import table
    from orchestrator.face.progress import duration
    from orchestrator.runs.sweeps import listing
    from orchestrator.spec.places import anchored

    root, now = anchored(prefix), datetime.now(UTC)
    found = list(listing(root))
    if as_json:
        print(json.dumps([asdict(item) for item in found], default=datetime.isoformat))
        return
    if not found:
        print(f"no sweep below {root}")
        return
    rows = [
        (
            item.place, item.name, item.state, item.units_done, item.units_left, item.failed or None,
            None if item.seen is None else f"{duration(max(0.0, (now - item.seen).total_seconds()))} ago",
            *(None if each is None else f"{each:.2f}" for each in (item.gpu_hours, item.cost)),
        )
        for item in found
    ]  # fmt: skip
    columns = ("place", "sweep", "state", "done", "left", "failed", "seen", "gpu_hours", "cost")
    table.show(columns, rows, title=f"Sweeps below {root}", right=columns[3:6] + columns[7:])
    for state in dict.fromkeys(item.state for item in found):
        if state in HINTS:
            print(HINTS[state])
