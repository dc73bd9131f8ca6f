"""``bench-localizer``: hold a localizer against tables whose truth is known."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from orchestrator.cli.options import JsonOption


def bench_localizer(
    localizer: Annotated[str, typer.Argument(help="Its name (window, argmin), or a Python file.")] = "window",
    tables: Annotated[int, typer.Option(min=1, help="Simulated tables.")] = 2000,
    seed: Annotated[int, typer.Option(min=0, help="Of the simulation.")] = 0,
    planted: Annotated[
        Path | None, typer.Option(help="Folder of planted tables with a truth.json; default: the bundled ones.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Measure false localization, coverage, power and exact sets."""
    from rich.console import Console

    from loco_core import registry
    from loco_core.errors import SpecError
    from loco_core.localizer_bench import run_bench
    from loco_core.toyworld import PLANTED_TABLES
    from loco_core.tracing import reads

    console = Console(stderr=True)
    folder = planted if planted is not None else PLANTED_TABLES if PLANTED_TABLES.is_dir() else None
    if (method := reads(localizer)) is not None:
        raise SpecError(
            f"{localizer} reads traces ({method}), the bench has tables of scores; a sweep compares it (beside)"
        )
    function = registry.function("localizers", localizer, "localize")
    with console.status(f"0 of {tables} tables") as status:
        report = run_bench(
            function, localizer, tables=tables, seed=seed, planted=folder,
            progress=lambda done: status.update(f"{done} of {tables} tables"),
        )  # fmt: skip
    if as_json:
        print(report.to_json())
    else:
        Console().print(report)
