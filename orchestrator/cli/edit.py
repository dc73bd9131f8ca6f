"""``edit``: fit edits on results that are there, where something was localized or at a window named by hand."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from orchestrator.cli.options import (
    AddressOption,
    AttributeOption,
    BackendName,
    BackendOption,
    MaxFailuresOption,
    ModelOption,
    Results,
    ThreadsOption,
    TrustOption,
    WorkersOption,
    at_home,
    backend_maker,
    parse_window,
    placed,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from orchestrator.edit_driver import EditResult
    from orchestrator.scheduler.protocol import Backend
    from orchestrator.session import Controls
    from orchestrator.worker import WorkerSettings


def edit(
    results: Results,
    model: ModelOption = None,
    attribute: AttributeOption = None,
    window: Annotated[
        str | None,
        typer.Option(metavar="START,SIZE", help="Edit at this window, whatever was localized."),
    ] = None,
    sweep: Annotated[
        Path | None,
        typer.Option(
            "--sweep", metavar="FILE", help="Take the edit and evaluate blocks from this sweep file.", callback=at_home
        ),
    ] = None,
    backend: BackendOption = BackendName.RAY,
    workers: WorkersOption = None,
    threads: ThreadsOption = None,
    address: AddressOption = None,
    max_failures: MaxFailuresOption = None,
    trust: TrustOption = False,
) -> None:
    """Fit edits where attributes are localized and measure them; the same command again resumes."""
    from contextlib import nullcontext

    from orchestrator import edit_driver
    from orchestrator.spec import load_sweep

    named = None if window is None else parse_window(window)
    blocks = None if sweep is None else load_sweep(sweep)
    make = backend_maker(backend, workers, threads, address)
    with placed(sweep) if sweep else nullcontext():
        work(
            results, make, max_failures,
            lambda controls, say: edit_driver.edit(
                edit_driver.Meant(results, model, tuple(attribute or ())), controls, say, window=named, blocks=blocks
            ), address=address,
        )  # fmt: skip


def work(
    results: str,
    make_backend: Callable[[WorkerSettings], Backend],
    max_failures: int | None,
    command: Callable[[Controls, Callable[[str], None]], EditResult],
    on_end: Callable[[], None] = lambda: None,
    address: str | None = None,
) -> None:
    """Runs a command on edits, reports, and exits with the code that says how it went."""
    from orchestrator.cli.progress import duration, reporter
    from orchestrator.cli.run import FAILED_CELLS, explain, print_edits, print_report, shown, signals
    from orchestrator.scheduler.loop import StopSwitch
    from orchestrator.session import Controls

    stop = StopSwitch()
    with reporter() as report, signals(stop):
        show = shown(report, results, address)
        result = command(Controls(make_backend, show, stop, max_failures), report.say)
    summary = result.summary
    on_end()
    print_edits(result.edits)
    if summary is None or summary.outcome != "lease_lost":
        print_report(results)
    if summary is None:
        print(f"all that was asked for is measured already; results: {results}")
        return
    print(
        f"{summary.rows + summary.invalid} measurements in {duration(summary.seconds)}"
        f" ({summary.invalid} invalid, {len(summary.failures)} units failed, {summary.left} left); results: {results}"
    )
    explain(summary)
    if summary.failures:
        raise typer.Exit(FAILED_CELLS)
