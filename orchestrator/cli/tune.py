"""``tune``: search the settings of an edit, on results that are there."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from loco_core.errors import printable
from orchestrator.cli.options import (
    AddressOption,
    BackendName,
    MaxFailuresOption,
    ModelOption,
    Results,
    ThreadsOption,
    TrustOption,
    WorkersOption,
    backend_maker,
    parse_window,
    worker_count,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from orchestrator.edit_driver import EditResult, TuneResult
    from orchestrator.session import Controls

SHOWN = 5


class EditorName(StrEnum):
    """Editors whose settings can be searched."""

    LOCO_EDIT = "loco_edit"
    NEURONS = "neurons"


def tune(
    results: Results,
    model: ModelOption = None,
    attribute: Annotated[
        str | None, typer.Option("--attribute", metavar="KEY", help="The attribute that is edited.")
    ] = None,
    window: Annotated[
        str | None, typer.Option(metavar="START,SIZE", help="Edit at this window; otherwise it is searched, too.")
    ] = None,
    editor: Annotated[
        list[EditorName] | None, typer.Option("--editor", help="An editor to try; may be given more than once.")
    ] = None,
    trials: Annotated[int, typer.Option(min=1, help="How many settings are tried.")] = 32,
    seed: Annotated[int, typer.Option(min=0, help="Of the search.")] = 0,
    workers: WorkersOption = None,
    threads: ThreadsOption = None,
    address: AddressOption = None,
    max_failures: MaxFailuresOption = None,
    trust: TrustOption = False,
) -> None:
    """Search lambda (or neurons), tokens and window of a paired edit with Ray Tune; measure the best on new prompts."""
    from orchestrator import edit_driver
    from orchestrator.cli.edit import work
    from orchestrator.tune_search import RayTuneSearch

    named = None if window is None else parse_window(window)
    make = backend_maker(BackendName.RAY, workers, threads, address)
    found: list[TuneResult] = []

    def search(controls: Controls, say: Callable[[str], None]) -> EditResult:
        result = edit_driver.tune(
            edit_driver.Meant(results, model, () if attribute is None else (attribute,)), controls, window=named,
            editors=tuple(str(item) for item in editor or [EditorName.LOCO_EDIT]), seed=seed,
            search=lambda space, seeds: RayTuneSearch(
                space, trials=trials, concurrent=2 * worker_count(workers), seeds=seeds, seed=seed
            ),
        )  # fmt: skip
        found.append(result)
        return result.edits

    work(results, make, max_failures, search, on_end=lambda: _show(found[0]), address=address)


def _show(result: TuneResult) -> None:
    """Prints the trials that came furthest."""
    from rich.box import SIMPLE
    from rich.table import Table

    from loco_core.editors import named
    from orchestrator.cli.run import span
    from orchestrator.cli.terminal import console

    stopped = sum(trial.request.seeds < result.seeds for trial in result.trials)
    pictures = sum(trial.pictures for trial in result.trials)
    table = Table(title=f"{len(result.trials)} trials, {stopped} stopped early, {pictures} pictures with an edit",
                  box=SIMPLE, pad_edge=False)  # fmt: skip
    for name in ("edit", "tokens", "seeds", "flipped", "neighbours lost"):
        table.add_column(name)
    for trial in sorted(result.trials, key=lambda trial: (trial.request.seeds, trial.objective), reverse=True)[:SHOWN]:
        settings, window = trial.request.settings, trial.request.window
        neurons = settings.editor == "neurons"
        strength = f"{settings.neurons:.0%} of neurons" if neurons else f"lambda {settings.strength:.2g}"
        edit = named(settings.editor, None if neurons else settings.targets)
        table.add_row(
            f"{printable(edit)} {span(window.start, window.size)}, {strength}",
            settings.tokens, str(trial.request.seeds),
            f"{trial.flipped:.0%}", f"{trial.neighbour_loss:.0%}",
        )  # fmt: skip
    console().print(table)
    if result.best is None:
        print("no trial was measured on all seeds: nothing is chosen")
