"""``run`` and ``retry``: compute what remains of a sweep."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from loco_core.errors import SpecError
from orchestrator.cli.options import (
    AddressOption,
    BackendName,
    BackendOption,
    BudgetOption,
    MaxFailuresOption,
    Overrides,
    PriceOption,
    PriorityOption,
    ResultsOption,
    ResultsOrFile,
    SweepOrResults,
    ThreadsOption,
    TrustOption,
    WorkersOption,
    parse_budget,
    parse_price,
)
from orchestrator.cli.outcome import execute


def run(
    sweep: SweepOrResults,
    overrides: Overrides = None,
    results: ResultsOption = None,
    backend: BackendOption = BackendName.RAY,
    workers: WorkersOption = None,
    threads: ThreadsOption = None,
    address: AddressOption = None,
    priority: PriorityOption = None,
    max_failures: MaxFailuresOption = None,
    again: Annotated[bool, typer.Option("--retry", help="Also compute failed cells again.")] = False,
    price: PriceOption = None,
    budget: BudgetOption = None,
    trust: TrustOption = False,
    secrets: Annotated[
        Path | None,
        typer.Option("--secrets", hidden=True, help="File with the secrets of a job; it is removed when it is read."),
    ] = None,
) -> None:
    """Run a sweep, or resume it.

    What is computed already is not computed again. A results folder in place of the file resumes its sweep.
    """
    from orchestrator.cli.places import is_results, source_of, stored_sweep
    from orchestrator.face.sweep import placed, results_of
    from orchestrator.spec import load_sweep
    from orchestrator.spec.places import anchored

    if secrets is not None:
        from orchestrator.submit.secrets import receive

        receive(secrets)
    prices = parse_price(price)
    limits = parse_budget(budget, prices)
    if is_results(sweep):
        if overrides or results:
            raise SpecError(
                f"{sweep}: a results folder resumes as it is; expected a sweep file with KEY=VALUE, --results"
            )
        root = anchored(sweep)
        execute(
            stored_sweep(root), root, backend, workers, threads, address, max_failures, again=again, priority=priority,
            prices=prices, budget=limits,
        )  # fmt: skip
        return
    source = source_of(sweep, overrides)
    spec = load_sweep(source)
    with placed(source):
        where = results_of(spec, results)
        execute(
            spec, where, backend, workers, threads, address, max_failures, again=again, priority=priority,
            prices=prices, budget=limits,
        )  # fmt: skip


def retry(
    results: ResultsOrFile,
    backend: BackendOption = BackendName.RAY,
    workers: WorkersOption = None,
    threads: ThreadsOption = None,
    address: AddressOption = None,
    max_failures: MaxFailuresOption = None,
    trust: TrustOption = False,
) -> None:
    """Compute failed cells again."""
    from orchestrator.cli.places import named, stored_sweep

    place = named(results)
    if place.cluster is not None:
        from orchestrator.cli.submit import send

        if backend is not BackendName.RAY or any(
            item is not None for item in (workers, threads, address, max_failures)
        ):
            raise SpecError(f"{results}: with a cluster file, its own keys say how many workers there are and where")
        send(Path(results), wait=False, dry_run=False, again=True)
        return
    results = place.results
    execute(stored_sweep(results), results, backend, workers, threads, address, max_failures, again=True)
