"""Runs a sweep for a person at a terminal, and says how it went."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import typer

from loco_core.errors import printable
from orchestrator.backends.choice import backend_maker
from orchestrator.cli.options import (
    BackendName,
)

if TYPE_CHECKING:
    from loco_core.localization.base import Localization
    from orchestrator.face.progress import Reporter
    from orchestrator.scheduler.loop import StopSwitch
    from orchestrator.scheduler.progress import Progress, RunSummary
    from orchestrator.scheduler.protocol import UnitReport
    from orchestrator.spec import SweepSpec
    from orchestrator.spec.budget import BudgetSpec, CostSpec
    from orchestrator.stages.edit.interference import Cell, Matrix
    from orchestrator.stages.edit.summary import EditSummary, Share

FAILED_CELLS, STOPPED = 3, 4
OVER_BUDGET = "stopped: budget."
"""What a run says at its end that has used up its budget: to begin it again is of no use."""


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
    priority: float | None = None,
    prices: CostSpec | None = None,
    budget: BudgetSpec | None = None,
) -> None:
    """Runs a sweep, reports, and exits with the code that says how it went."""
    from orchestrator.face.progress import duration, reporter
    from orchestrator.runs.failures import advice, folded
    from orchestrator.runs.sweep import run_sweep
    from orchestrator.runs.usage import NO_PRICES
    from orchestrator.runs.warnings import default_lines
    from orchestrator.scheduler.loop import StopSwitch

    for line in default_lines(spec):
        print(printable(line))
    stop = StopSwitch()
    make = backend_maker(backend, workers, threads, address, priority)
    with reporter() as report, signals(stop):
        result = run_sweep(
            spec, results, make, on_progress=shown(report, results, address), on_localized=report.localized, stop=stop,
            max_failures=max_failures, retry=again, prices=prices or NO_PRICES, budget=budget,
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
    """Returns what progress is reported to: a person and, on a cluster, its metrics."""
    if address is None:
        return report.progress
    from orchestrator.backends.ray.metrics import Metrics

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


def explain(summary: RunSummary, reported: Sequence[tuple[str, str]] = ()) -> None:
    """Prints what went wrong, and exits where the same command has more to do.

    Args:
        summary: of the run.
        reported: kinds of errors that were reported to the person before, as of `orchestrator.runs.failures.folded`.
    """
    from orchestrator.runs.failures import SHOWN, folded

    kinds: dict[tuple[str, str], list[UnitReport]] = {}
    for failure in summary.failures:
        kinds.setdefault(folded(failure.error_type or "", failure.error or ""), []).append(failure)
    for alike in [alike for kind, alike in kinds.items() if kind not in reported][:SHOWN]:
        what = f"unit {alike[0].unit_id[:12]}" if len(alike) == 1 else f"{len(alike)} units"
        print(printable(f"gave up on {what}: {alike[0].error_type}: {alike[0].error}"))
    if summary.outcome == "lease_lost":
        print("another driver took these results over; this one stopped")
    if summary.outcome == "over_budget":
        print(f"{OVER_BUDGET}{summary.used_up}; raise it, and the same command resumes")
        raise typer.Exit(STOPPED)
    if summary.outcome != "done":
        print("the same command resumes")
        raise typer.Exit(STOPPED)


def print_localizations(found: Iterable[Localization]) -> None:
    """Prints a table with a line per model and attribute; it fits 80 columns."""
    from orchestrator.cli import table

    rows = list(found)
    if not rows:
        return
    lines = []
    for row in rows:
        start, size = row.best_start, row.best_size
        sites = None if start is None or size is None else span(start, size)
        if row.window is None and sites is not None:
            sites = f"({sites})"
        interval = None if row.ci_low is None or row.ci_high is None else f"{row.ci_low:.2f} to {row.ci_high:.2f}"
        effect = None if row.effect is None else f"{row.effect:.2f}"
        holds = None if row.holds_in is None else f"{row.holds_in} of {row.n_prompts}"
        lines.append((row.model, row.attribute, row.words, sites, effect, interval, holds))
    columns = ("model", "attribute", "outcome", "sites", "effect", "interval", "holds in")
    table.show(columns, lines, title="Localized layers", right=("effect", "holds in"))
    if any(row.window is None for row in rows):
        print("(sites): the window with the largest effect, where no window is localized")
    words = [row.words for row in rows]
    if any(" in " in each for each in words):
        print("in N prompts: shown for these prompts and any seed; not shown for most prompts like these")
    if "localized" in words:
        print("localized: shown for more than half of prompts like these")
    if "picked" in words:
        print("picked: in the pictures drawn; it says nothing about other pictures")


def print_edits(found: Iterable[EditSummary]) -> None:
    """Prints what the chosen edits did, with 95 % intervals."""
    from orchestrator.cli import table
    from orchestrator.stages.edit.interference import matrices

    found = list(found)
    rows = sorted((item for item in found if item.chosen and item.step is None), key=lambda item: item.model)
    if not rows:
        return
    lines = []
    for row in rows:
        shares = (row.flipped, row.neighbours_kept, row.content_kept)
        cells = (f"{100 * s.value:.0f} ({100 * s.low:.0f}-{100 * s.high:.0f})" if s.of else None for s in shares)
        lines.append((row.model, row.attribute, f"{row.name} {_place(row)}", *cells))
    columns = ("model", "attribute", "edit", "flipped", "neighbours", "content")
    table.show(columns, lines, title="Chosen edits, on prompts and seeds they never saw, in percent")
    print("flipped: show the donor's class now (without a judge: fit another text better)")
    print("neighbours, content: keep theirs; 95 % intervals")
    if any(row.scope == "by_hand" for row in rows):
        print("* by hand: at a window that was named, not found")
    for names in dict.fromkeys(row.attributes for row in rows if row.others):
        print(f"+ together: one edit of {' and '.join(names)}")
    for matrix in matrices(found):
        if matrix.in_turn:
            print_matrix(matrix)


def print_matrix(matrix: Matrix) -> None:
    """Prints what edits of several attributes did: a row per edit or step, a column per attribute."""
    from orchestrator.cli import table

    print(f"\n{matrix.title}: flipped / spared, in percent, with 95 % intervals")
    table.show(("edit", *matrix.attributes), [(line.label, *map(_cell, line.cells)) for line in matrix.lines])


def _cell(cell: Cell | None) -> str | None:
    if cell is None:
        return None
    mark = {"less": " ▼", "more": " ▲"}.get(cell.change or "", "")
    return f"{_share(cell.summary.flipped)} / {_share(cell.spared)}{mark}"


def _share(share: Share) -> str:
    return f"{100 * share.value:.0f} ({100 * share.low:.0f}-{100 * share.high:.0f})" if share.of else "-"


def _place(row: EditSummary) -> str:
    from loco_core.editing.base import info_of_results

    mark = "*" if row.scope == "by_hand" else "+" if row.others else ""
    if row.scope == "method" or (row.others and info_of_results(row.editor).place):
        return ("all sites" if row.sites else "text encoder") + mark
    return span(row.sites[0], len(row.sites)) + mark


def span(start: int, size: int) -> str:
    """Writes the sites of a window."""
    return f"{start}" if size == 1 else f"{start}-{start + size - 1}"


@contextmanager
def signals(stop: StopSwitch) -> Iterator[None]:
    """Lets Ctrl-C, SIGTERM and a closed terminal stop a run, and says how it goes on."""
    from orchestrator.face.terminal import stoppable

    try:
        with stoppable(stop):
            yield
    except KeyboardInterrupt:
        print("stopped; the same command resumes")
        raise typer.Exit(STOPPED) from None
