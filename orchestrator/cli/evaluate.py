"""``evaluate``: measure edits that are there on more prompts and seeds."""

from __future__ import annotations

from typing import Annotated

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
    backend_maker,
)


def evaluate(
    results: Results,
    model: ModelOption = None,
    attribute: AttributeOption = None,
    prompts: Annotated[int | None, typer.Option(min=1, help="Prompts of each role; default: as in the sweep.")] = None,
    seeds: Annotated[
        int | None, typer.Option(min=1, max=1000, help="Seeds a prompt; default: as in the sweep.")
    ] = None,
    neighbours: Annotated[
        int | None, typer.Option(min=0, help="Nearest attributes that are watched; default: as in the sweep.")
    ] = None,
    windows: Annotated[
        bool | None,
        typer.Option("--windows/--no-windows", help="Also edits at windows elsewhere; default: as in the sweep."),
    ] = None,
    chosen: Annotated[
        bool, typer.Option("--chosen", help="Only chosen edits, and baselines that have their settings.")
    ] = False,
    backend: BackendOption = BackendName.RAY,
    workers: WorkersOption = None,
    threads: ThreadsOption = None,
    address: AddressOption = None,
    max_failures: MaxFailuresOption = None,
    trust: TrustOption = False,
) -> None:
    """Measure edits on more prompts and seeds; what is measured already is not measured again."""
    from orchestrator import edit_driver
    from orchestrator.cli.edit import work

    given = {"prompts": prompts, "seeds": seeds, "neighbours": neighbours, "windows": windows}
    changes = {name: value for name, value in given.items() if value is not None}
    work(
        results, backend_maker(backend, workers, threads, address), max_failures,
        lambda controls, say: edit_driver.evaluate(
            edit_driver.Meant(results, model, tuple(attribute or ())), controls, say, changes, only_chosen=chosen
        ), address=address,
    )  # fmt: skip
