"""``localize``: find layers in scores that are there already."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from orchestrator.cli.options import JsonOption


def localize(
    scores: Annotated[str, typer.Argument(help="A results folder, or any Parquet with the columns of scores.")],
    localizer: Annotated[str | None, typer.Option(help="Its name, or a Python file; default: the sweep's.")] = None,
    threshold: Annotated[
        float | None, typer.Option(min=0, max=1, help="Share of the full effect; default 0.8.")
    ] = None,
    write: Annotated[bool, typer.Option("--write", help="Replace effects and localizations of the results.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Find the layers of every attribute of every model again, e.g. by another rule."""
    import json
    from dataclasses import asdict

    from loco_core.errors import SpecError
    from orchestrator.cli.run import print_localizations
    from orchestrator.stages.relocalize import read_scores, relocalize, write_back

    changes: dict[str, Any] = {"localizer": localizer, "threshold": threshold}
    table = read_scores(scores)
    if write and table.store is None:
        raise SpecError(f"--write: {scores} is no results folder")
    found = relocalize(table, {key: value for key, value in changes.items() if value is not None})
    if write:
        write_back(table, found)
    if as_json:
        print(json.dumps([asdict(item) for item in found]))
        return
    print_localizations(found)
    for item in found:
        print(f"{item.model} {item.attribute}: {item.outcome}: {item.reason}")
