"""``evaluate``: measure edits on more prompts and seeds."""

from __future__ import annotations

from typing import Annotated

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
)


def evaluate(
    results: Results,
    model: ModelOption = None,
    attribute: AttributeOption = None,
    prompts: Annotated[
        int | None, typer.Option(min=1, help="Number of prompts of each role; default: the sweep's.")
    ] = None,
    seeds: Annotated[
        int | None, typer.Option(min=1, max=1000, help="Number of seeds per prompt; default: the sweep's.")
    ] = None,
    neighbours: Annotated[
        int | None, typer.Option(min=0, help="Number of nearest attributes that are watched; default: the sweep's.")
    ] = None,
    windows: Annotated[
        bool | None,
        typer.Option("--windows/--no-windows", help="Also measure edits at other windows; default: the sweep's."),
    ] = None,
    chosen: Annotated[
        bool, typer.Option("--chosen", help="Measure only chosen edits, and baselines with the same settings.")
    ] = False,
    backend: BackendOption = BackendName.RAY,
    workers: WorkersOption = None,
    threads: ThreadsOption = None,
    address: AddressOption = None,
    max_failures: MaxFailuresOption = None,
    trust: TrustOption = False,
) -> None:
    """Measure edits on more prompts and seeds.

    What is measured already is not measured again.
    """
    from orchestrator.cli.edit import work
    from orchestrator.runs.edits import Selection, run_evaluation

    given = {"prompts": prompts, "seeds": seeds, "neighbours": neighbours, "windows": windows}
    changes = {name: value for name, value in given.items() if value is not None}
    work(
        results, backend_maker(backend, workers, threads, address), max_failures,
        lambda controls, say: run_evaluation(
            Selection(results, model, tuple(attribute or ())), controls, say, changes, only_chosen=chosen
        ), address=address,
    )  # fmt: skip
