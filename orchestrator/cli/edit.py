"""``edit``: fit edits on results, at localized windows or at a window named by hand."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from orchestrator.backends.choice import backend_maker
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
    parse_window,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from orchestrator.runs.edits import EditResult
    from orchestrator.runs.session import Controls
    from orchestrator.scheduler.protocol import Backend
    from orchestrator.worker import WorkerSettings


def edit(
    results: Results,
    model: ModelOption = None,
    attribute: AttributeOption = None,
    window: Annotated[
        str | None,
        typer.Option(metavar="START,SIZE", help="Edit at this window instead of the localized one."),
    ] = None,
    sweep: Annotated[
        Path | None,
        typer.Option(
            "--sweep",
            metavar="FILE",
            help="The whole sweep file, with the edit and evaluate blocks to use.",
            callback=at_home,
        ),
    ] = None,
    backend: BackendOption = BackendName.RAY,
    workers: WorkersOption = None,
    threads: ThreadsOption = None,
    address: AddressOption = None,
    max_failures: MaxFailuresOption = None,
    trust: TrustOption = False,
) -> None:
    """Fit edits where attributes are localized.

    Every edit is measured on prompts and seeds that it was not fitted on. The same command again resumes.
    """
    from orchestrator.face.sweep import placed
    from orchestrator.runs.edits import Selection, run_edits
    from orchestrator.spec import load_sweep

    named = None if window is None else parse_window(window)
    blocks = None if sweep is None else load_sweep(sweep)
    make = backend_maker(backend, workers, threads, address)
    with placed(sweep):
        work(
            results, make, max_failures,
            lambda controls, say: run_edits(
                Selection(results, model, tuple(attribute or ())), controls, say, window=named, blocks=blocks
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
    from orchestrator.cli.outcome import FAILED_CELLS, explain, print_edits, print_report, shown, signals
    from orchestrator.face.progress import duration, reporter
    from orchestrator.runs.session import Controls
    from orchestrator.scheduler.loop import StopSwitch

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
        print(f"everything is measured already; results: {results}")
        return
    print(
        f"{summary.rows + summary.invalid} measurements in {duration(summary.seconds)}"
        f" ({summary.invalid} invalid, {len(summary.failures)} units failed, {summary.left} left); results: {results}"
    )
    explain(summary)
    if summary.failures:
        raise typer.Exit(FAILED_CELLS)
