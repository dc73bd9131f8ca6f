"""``run`` and ``retry``: compute what remains of a sweep."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from loco_core.errors import printable
from orchestrator.cli.options import (
    AddressOption,
    BackendName,
    BackendOption,
    MaxFailuresOption,
    ResultsOption,
    ResultsOrCluster,
    SweepFile,
    ThreadsOption,
    TrustOption,
    WorkersOption,
    backend_maker,
    is_cluster_file,
    placed,
    results_of,
)
from orchestrator.cli.terminal import drop

if TYPE_CHECKING:
    from loco_core.localizers import Localization
    from orchestrator.cli.progress import Reporter
    from orchestrator.edit_summary import EditSummary
    from orchestrator.scheduler.loop import Progress, RunSummary, StopSwitch
    from orchestrator.scheduler.protocol import UnitReport
    from orchestrator.spec import SweepSpec

FAILED_CELLS, STOPPED = 3, 4


def run(
    sweep: SweepFile,
    results: ResultsOption = None,
    backend: BackendOption = BackendName.RAY,
    workers: WorkersOption = None,
    threads: ThreadsOption = None,
    address: AddressOption = None,
    max_failures: MaxFailuresOption = None,
    again: Annotated[bool, typer.Option("--retry", help="Compute failed cells again, too.")] = False,
) -> None:
    """Run a sweep; the same command again resumes it."""
    from orchestrator.spec import load_sweep

    spec = load_sweep(sweep)
    with placed(sweep):
        where = results_of(spec, results)
        execute(spec, where, backend, workers, threads, address, max_failures, again=again)


def retry(
    results: ResultsOrCluster,
    backend: BackendOption = BackendName.RAY,
    workers: WorkersOption = None,
    threads: ThreadsOption = None,
    address: AddressOption = None,
    max_failures: MaxFailuresOption = None,
    trust: TrustOption = False,
) -> None:
    """Compute failed cells again."""
    from loco_core.errors import SpecError, StoreError
    from orchestrator.spec.places import anchored
    from orchestrator.store import open_store

    if is_cluster_file(results):
        from orchestrator.cli.submit import send

        if backend is not BackendName.RAY or any(
            item is not None for item in (workers, threads, address, max_failures)
        ):
            raise SpecError(f"{results}: with a cluster file, its own keys say how many workers there are and where")
        send(Path(results), wait=False, dry_run=False, again=True)
        return
    results = anchored(results)
    spec = open_store(results, create=False).sweep()
    if spec is None:
        raise StoreError(f"{results}: holds no sweep")
    execute(spec, results, backend, workers, threads, address, max_failures, again=True)


def execute(
    spec: SweepSpec,
    results: str,
    backend: BackendName,
    workers: int | None,
    threads: int | None,
    address: str | None,
    max_failures: int | None,
    *,
    again: bool = False,
) -> None:
    """Runs a sweep, reports, and exits with the code that says how it went."""
    from orchestrator import driver
    from orchestrator.cli.progress import duration, reporter
    from orchestrator.scheduler.loop import StopSwitch
    from orchestrator.stages.failures import advice, folded

    stop = StopSwitch()
    make = backend_maker(backend, workers, threads, address)
    with reporter() as report, signals(stop):
        result = driver.run(
            spec, results, make, on_progress=shown(report, results, address), on_localized=report.localized, stop=stop,
            max_failures=max_failures, retry=again,
        )  # fmt: skip
    summary = result.summary
    print_localizations(result.localizations)
    print_edits(result.edits)
    if result.summary.outcome != "lease_lost" and result.localizations:
        print_report(results)
    print(
        f"{summary.rows + summary.invalid} cells in {duration(summary.seconds)}"
        f" ({summary.invalid} invalid, {result.failed_cells} failed, {summary.left} units left); results: {results}"
    )
    for line in advice(result.failed, results):
        print(printable(line))
    explain(summary, [folded(kind.error_type, kind.error) for kind in result.failed])
    if summary.failures and not result.failed_cells:
        print("the same command tries failed edits and traces again")
    if result.failed_cells or summary.failures:
        raise typer.Exit(FAILED_CELLS)


def shown(report: Reporter, results: str, address: str | None) -> Callable[[Progress], None]:
    """Returns what progress is told to: a person and, on a cluster, its metrics."""
    if address is None:
        return report.progress
    from orchestrator.backends.metrics import Metrics

    metrics = Metrics(results)

    def show(progress: Progress) -> None:
        report.progress(progress)
        metrics.show(progress)

    return show


def print_report(results: str) -> None:
    """Writes the report anew and says where it is."""
    from orchestrator.reporting import write_report
    from orchestrator.store import open_store

    print(f"report: {write_report(open_store(results))}")


def explain(summary: RunSummary, told: Sequence[tuple[str, str]] = ()) -> None:
    """Prints what went wrong, and exits where the same command has more to do.

    Args:
        summary: of the run.
        told: kinds of errors that the person has been told of, as of `orchestrator.stages.failures.folded`.
    """
    from orchestrator.stages.failures import SHOWN, folded

    kinds: dict[tuple[str, str], list[UnitReport]] = {}
    for failure in summary.failures:
        kinds.setdefault(folded(failure.error_type or "", failure.error or ""), []).append(failure)
    for alike in [alike for kind, alike in kinds.items() if kind not in told][:SHOWN]:
        what = f"unit {alike[0].unit_id[:12]}" if len(alike) == 1 else f"{len(alike)} units"
        print(printable(f"gave up on {what}: {alike[0].error_type}: {alike[0].error}"))
    if summary.outcome == "lease_lost":
        print("another driver took these results over; this one stopped")
    if summary.outcome != "done":
        print("the same command resumes")
        raise typer.Exit(STOPPED)


def print_localizations(found: Iterable[Localization]) -> None:
    """Prints a table with a line per model and attribute; it fits 80 columns."""
    from rich.box import SIMPLE
    from rich.table import Table

    from orchestrator.cli.terminal import console

    rows = list(found)
    if not rows:
        return
    table = Table(title="Localized layers", box=SIMPLE, pad_edge=False)
    for name in ("model", "attribute", "outcome", "sites", "effect", "interval", "holds in"):
        # Folded, never cut: a name with its end missing is no name.
        table.add_column(name, justify="right" if name in ("effect", "holds in") else "left", overflow="fold")
    for row in rows:
        start, size = row.best_start, row.best_size
        sites = "-" if start is None or size is None else span(start, size)
        if row.window is None and sites != "-":
            sites = f"({sites})"
        interval = "-" if row.ci_low is None or row.ci_high is None else f"{row.ci_low:.2f} to {row.ci_high:.2f}"
        effect = "-" if row.effect is None else f"{row.effect:.2f}"
        holds = "-" if row.holds_in is None else f"{row.holds_in} of {row.n_prompts}"
        table.add_row(
            printable(row.model), printable(row.attribute), printable(row.words), sites, effect, interval, holds
        )
    console().print(table)
    if any(row.window is None for row in rows):
        print("(sites) are the window of the largest effect where none is localized")
    words = [row.words for row in rows]
    if any(" in " in each for each in words):
        print("in N prompts: of the sweep, with seeds as random; that most prompts like these do the same is not shown")
    if "localized" in words:
        print("localized: in more than half of prompts like these")
    if "picked" in words:
        print("picked: in the pictures drawn; that says nothing of others")


def print_edits(found: Iterable[EditSummary]) -> None:
    """Prints what the chosen edits did, with 95 % intervals."""
    from rich.box import SIMPLE
    from rich.table import Table

    from orchestrator.cli.terminal import console

    rows = sorted((item for item in found if item.chosen), key=lambda item: item.model)
    if not rows:
        return
    table = Table(title="Chosen edits, on prompts and seeds they never saw, in percent", box=SIMPLE, pad_edge=False)
    for name in ("model, attribute", "edit"):
        table.add_column(name, overflow="fold")
    for name in ("flipped", "neighbours", "content"):
        table.add_column(name, no_wrap=True)
    model = None
    for row in rows:
        if row.model != model:
            # On a line of its own: in a column of its own a long name breaks all others at 80 columns.
            model = row.model
            table.add_row(printable(model))
        shares = (row.flipped, row.neighbours_kept, row.content_kept)
        cells = (f"{100 * s.value:.0f} ({100 * s.low:.0f}-{100 * s.high:.0f})" if s.of else "-" for s in shares)
        table.add_row(f"  {printable(row.attribute)}", f"{printable(row.name)} {_place(row)}", *cells)
    console().print(table)
    print("flipped: show the donor's class now; neighbours, content: keep theirs; 95 % intervals")
    if any(row.scope == "by_hand" for row in rows):
        print("* by hand: at a window that was named, not found")


def _place(row: EditSummary) -> str:
    if row.scope == "method":
        return "all sites" if row.sites else "text encoder"
    return span(row.sites[0], len(row.sites)) + ("*" if row.scope == "by_hand" else "")


def span(start: int, size: int) -> str:
    """Writes the sites of a window."""
    return f"{start}" if size == 1 else f"{start}-{start + size - 1}"


@contextmanager
def signals(stop: StopSwitch) -> Iterator[None]:
    """Lets Ctrl-C, SIGTERM and a closed terminal stop it: once after what is running, twice now, wherever it is.

    A terminal that closes says so more than once, and counts once.
    """
    # Of one that is gone nothing tells that it was one.
    terminals = [stream for stream in (sys.stdout, sys.stderr) if stream.isatty()]

    def press(number: int, _: object) -> None:
        again = stop.pressed
        if number == signal.SIGHUP:
            for stream in terminals:
                drop(stream)
            if again:
                return
        stop.press()
        if again:
            raise KeyboardInterrupt

    numbers = [signal.SIGINT, signal.SIGTERM]
    if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:
        # As nohup leaves it.
        numbers.append(signal.SIGHUP)
    before = [signal.signal(number, press) for number in numbers]
    try:
        yield
    except KeyboardInterrupt:
        print("stopped; the same command resumes")
        raise typer.Exit(STOPPED) from None
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)
