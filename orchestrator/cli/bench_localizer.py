"""``bench-localizer``: hold a localizer against tables whose truth is known."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from orchestrator.cli.options import JsonOption


def bench_localizer(
    localizer: Annotated[
        str, typer.Argument(help="Its name (window, sequential, argmin), or a Python file.")
    ] = "window",
    tables: Annotated[int, typer.Option(min=1, help="Simulated tables.")] = 2000,
    seed: Annotated[int, typer.Option(min=0, help="Of the simulation.")] = 0,
    sites: Annotated[int, typer.Option(help="Of the simulated model: 16, or 70 with windows of up to 8.")] = 16,
    screen: Annotated[
        list[int] | None,
        typer.Option(min=4, help="Pairs that a sequential localizer tries first; several print a curve."),
    ] = None,
    planted: Annotated[
        Path | None, typer.Option(help="Folder of planted tables with a truth.json; default: the bundled ones.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Measure false localization, coverage, power, exact sets, and what a sequential localizer saves."""
    from rich.console import Console

    from loco_core.errors import SpecError
    from loco_core.localizer_bench import run_bench
    from loco_core.localizer_bench.simulate import LAYOUTS
    from loco_core.localizers import LocalizeSettings, rule
    from loco_core.toyworld import PLANTED_TABLES
    from loco_core.tracing import reads

    if sites not in LAYOUTS:
        raise SpecError(f"--sites {sites}: expected one of {', '.join(map(str, LAYOUTS))}")
    console = Console(stderr=True)
    folder = planted if planted is not None else PLANTED_TABLES if PLANTED_TABLES.is_dir() else None
    if (method := reads(localizer)) is not None:
        raise SpecError(
            f"{localizer} reads traces ({method}), the bench has tables of scores; a sweep compares it (beside)"
        )
    measured = rule(localizer)
    reports = []
    for size in screen or [LocalizeSettings().screen]:
        with console.status(f"0 of {tables} tables") as status:
            reports.append(
                run_bench(
                    measured, localizer, LocalizeSettings(screen=size), tables=tables, seed=seed, planted=folder,
                    layout=LAYOUTS[sites], reference=rule("window") if measured.begin else None,
                    progress=lambda done: status.update(f"{done} of {tables} tables"),
                )
            )  # fmt: skip
    if as_json:
        print("\n".join(report.to_json() for report in reports))
    elif len(reports) == 1:
        Console().print(reports[0])
    else:
        for report in reports:
            print(f"screen of {report.settings.screen} pairs: {report.thrift}")
