"""``bench-localizer``: hold localizers against tables whose truth is known."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from orchestrator.cli.options import JsonOption, at_home

if TYPE_CHECKING:
    from loco_core.localization.base import LocalizeSettings
    from loco_core.localization.bench import BenchReport, Condition, Method


def bench_localizer(
    localizer: Annotated[
        list[str] | None,
        typer.Argument(
            help="Name of a localizer (window, sequential, argmin), or a Python file; default: window. Several, or "
            "`all` that are installed, are compared on the tables of planted models."
        ),
    ] = None,
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
    """Measure localizers on known truths.

    It measures wrong statements, coverage, power, exact sets, and what a sequential localizer saves. Several localizers
    stand side by side: what they name of planted models, and what it takes in images and seconds.
    """
    from loco_core import plugins
    from loco_core.errors import SpecError, did_you_mean
    from loco_core.localization.base import LocalizeSettings
    from loco_core.localization.bench import conditions, planted_folders, run_methods
    from loco_core.tracing.methods import ALL, methods
    from orchestrator.cli import table
    from orchestrator.spec.places import key_or_file

    known = conditions()
    wanted = list(known) if condition == ["all"] else condition or ["usual"]
    if wanted == ["list"]:
        print("\n".join(known))
        return
    for name in wanted:
        if name not in known:
            raise SpecError(f'no condition "{name}"{did_you_mean(name, known)}; `--condition list` names them')
    names = localizer or ["window"]
    plugins.name([name for name in names if name != ALL])
    folders = planted_folders() if planted is None else (planted,)
    measured = methods([name if name == ALL else key_or_file(name) for name in names])
    if len(names) > 1 or names == [ALL]:
        if condition or screen:
            raise SpecError("--condition and --screen: several localizers are compared on planted tables; expected one")
        compared = run_methods(folders, measured)
        print(compared.to_json()) if as_json else table.show_made(compared.parts())
        return
    (one,) = measured
    if one.tracer:
        # Tables of no condition have traces; the report says that they are left out.
        wanted = wanted[:1]
    if screen and one.rule.begin is None:
        raise SpecError(f"--screen: {one.name} is given the whole grid at once; expected one that begins small")
    settings = [LocalizeSettings(screen=size) for size in screen or [LocalizeSettings().screen]]
    reports = _reports(one, [known[name] for name in wanted], settings, tables, seed, folders)
    if one.tracer and not reports[0].planted:
        raise SpecError(f"{one.name} reads traces ({one.tracer}); no table of planted models has any beside its scores")
    _show(reports, as_json, screened=bool(screen))


def _reports(
    one: Method,
    wanted: Sequence[Condition],
    settings: Sequence[LocalizeSettings],
    tables: int,
    seed: int,
    folders: Sequence[Path],
) -> list[BenchReport]:
    """Returns what a localizer does under each condition, with each of the settings."""
    from rich.status import Status
    from rich.text import Text

    from loco_core.localization.base import rule
    from loco_core.localization.bench import run_bench
    from orchestrator.face.terminal import console

    reports = []
    for condition, asked in itertools.product(wanted, settings):
        with console(stderr=True).status(Text(f"{condition.name}: 0 of {tables} tables")) as status:

            def show(done: int, name: str = condition.name, status: Status = status) -> None:
                status.update(Text(f"{name}: {done} of {tables} tables"))

            reports.append(
                run_bench(
                    one.rule, one.name, asked, tables=tables, seed=seed, planted=folders if len(wanted) == 1 else (),
                    condition=condition, tracer=one.tracer, reference=rule("window") if one.rule.begin else None,
                    progress=show,
                )
            )  # fmt: skip
    return reports


def _show(reports: Sequence[BenchReport], as_json: bool, screened: bool) -> None:
    from loco_core.localization.bench.report import side_by_side
    from orchestrator.cli import table

    if as_json:
        print("\n".join(report.to_json() for report in reports))
    elif len(reports) == 1:
        table.show_made(reports[0].parts())
    elif screened:
        for report in reports:
            print(f"{report.condition}, screen of {report.settings.screen} pairs: {report.savings}")
    else:
        table.show_made([side_by_side(reports)])
