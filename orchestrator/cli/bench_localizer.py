"""``bench-localizer``: hold a localizer against tables whose truth is known."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Annotated

import typer

from orchestrator.cli.options import JsonOption, at_home


def bench_localizer(
    localizer: Annotated[
        str, typer.Argument(help="Name of a localizer (window, sequential, argmin), or a Python file.")
    ] = "window",
    tables: Annotated[int, typer.Option(min=1, help="Number of tables per condition.")] = 2000,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the tables.")] = 0,
    condition: Annotated[
        list[str] | None,
        typer.Option(help="Kind of tables; may be repeated. `all` takes all, `list` names them."),
    ] = None,
    screen: Annotated[
        list[int] | None,
        typer.Option(min=4, help="Pairs that a sequential localizer tries first; may be repeated."),
    ] = None,
    planted: Annotated[
        Path | None,
        typer.Option(help="Folder of planted tables with a truth.json; default: the bundled ones.", callback=at_home),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Measure a localizer on known truths.

    It measures wrong statements, coverage, power, exact sets, and what a sequential localizer saves.
    """
    from rich.status import Status
    from rich.text import Text

    from loco_core import plugins
    from loco_core.errors import SpecError, did_you_mean
    from loco_core.localization.base import LocalizeSettings, rule
    from loco_core.localization.bench import conditions, planted_folders, run_bench
    from loco_core.localization.bench.report import side_by_side
    from loco_core.tracing.base import reads
    from orchestrator.cli import table
    from orchestrator.face.terminal import console
    from orchestrator.spec.places import key_or_file

    known = conditions()
    wanted = list(known) if condition == ["all"] else condition or ["usual"]
    if wanted == ["list"]:
        print("\n".join(known))
        return
    for name in wanted:
        if name not in known:
            raise SpecError(f'no condition "{name}"{did_you_mean(name, known)}; `--condition list` names them')
    plugins.name([localizer])
    folders = planted_folders() if planted is None else (planted,)
    tracer = reads(key_or_file(localizer))
    measured = rule(key_or_file(localizer))
    reports = []
    for name, size in itertools.product(wanted, screen or [LocalizeSettings().screen]):
        with console(stderr=True).status(Text(f"{name}: 0 of {tables} tables")) as status:

            def show(done: int, name: str = name, status: Status = status) -> None:
                status.update(Text(f"{name}: {done} of {tables} tables"))

            reports.append(
                run_bench(
                    measured, localizer, LocalizeSettings(screen=size), tables=tables, seed=seed,
                    planted=folders if len(wanted) == 1 else (), condition=known[name],
                    tracer=tracer, reference=rule("window") if measured.begin else None,
                    progress=show,
                )
            )  # fmt: skip
    if tracer and not any(report.planted for report in reports):
        raise SpecError(f"{localizer} reads traces ({tracer}); no table of planted models has any beside its scores")
    if as_json:
        print("\n".join(report.to_json() for report in reports))
    elif len(reports) == 1:
        table.show_made(reports[0].parts())
    elif screen:
        for report in reports:
            print(f"{report.condition}, screen of {report.settings.screen} pairs: {report.savings}")
    else:
        table.show_made([side_by_side(reports)])
