"""``status``: how far a sweep is, from its results alone."""

from __future__ import annotations

import json

from orchestrator.cli.options import JsonOption, Results


def status(results: Results, as_json: JsonOption = False) -> None:
    """Show what is done, failed and left, and what was localized."""
    from dataclasses import asdict

    from orchestrator.stages.status import survey
    from orchestrator.store import open_store

    found = survey(open_store(results, create=False))
    if as_json:
        print(json.dumps(asdict(found)))
        return
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"{found.name}: {found.units_done} of {found.units} units")
    for name in ("model", "attribute", "units", "cells", "invalid", "failed", "outcome", "sites"):
        table.add_column(name, justify="right" if name in ("units", "cells", "invalid", "failed") else "left")
    for row in found.blocks:
        sites = "-" if row.window_start is None or row.window_size is None else ", ".join(
            str(site) for site in range(row.window_start, row.window_start + row.window_size)
        )  # fmt: skip
        table.add_row(
            row.model, row.attribute, f"{row.units_done}/{row.units}", str(row.ok), str(row.invalid), str(row.failed),
            row.outcome or "-", sites,
        )  # fmt: skip
    Console().print(table)
