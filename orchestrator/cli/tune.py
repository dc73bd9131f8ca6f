"""``tune``: search the settings of an edit, on results."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from orchestrator.backends.choice import backend_maker, worker_count
from orchestrator.cli.options import (
    AddressOption,
    BackendName,
    MaxFailuresOption,
    ModelOption,
    Results,
    ThreadsOption,
    TrustOption,
    WorkersOption,
    parse_window,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from orchestrator.runs.edits import EditResult, TuneResult
    from orchestrator.runs.session import Controls

SHOWN = 5


def tune(
    results: Results,
    model: ModelOption = None,
    attribute: Annotated[str | None, typer.Option("--attribute", metavar="KEY", help="Attribute to edit.")] = None,
    window: Annotated[
        str | None,
        typer.Option(metavar="START,SIZE", help="Edit at this window; without it, the window is searched, too."),
    ] = None,
    editor: Annotated[
        list[str] | None,
        typer.Option("--editor", metavar="KEY", help="Editor to try, by name or file; may be repeated."),
    ] = None,
    trials: Annotated[int, typer.Option(min=1, help="Number of settings to try.")] = 32,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the search.")] = 0,
    workers: WorkersOption = None,
    threads: ThreadsOption = None,
    address: AddressOption = None,
    max_failures: MaxFailuresOption = None,
    trust: TrustOption = False,
) -> None:
    """Search the settings of an edit with Ray Tune.

    Settings and window of a paired edit are searched; the best trial is measured on new prompts.
    """
    from loco_core import plugins
    from loco_core.editing.base import EditSettings
    from orchestrator.backends.ray.search import RayTuneSearch
    from orchestrator.cli.edit import work
    from orchestrator.runs.edits import Selection, run_tuning
    from orchestrator.spec.places import key_or_file

    editors = tuple(key_or_file(item) for item in editor or [EditSettings().editor])
    plugins.name(editors)
    named = None if window is None else parse_window(window)
    make = backend_maker(BackendName.RAY, workers, threads, address)
    found: list[TuneResult] = []

    def search(controls: Controls, say: Callable[[str], None]) -> EditResult:
        result = run_tuning(
            Selection(results, model, () if attribute is None else (attribute,)), controls, window=named,
            editors=editors, seed=seed,
            search=lambda space, seeds: RayTuneSearch(
                space, trials=trials, concurrent=2 * worker_count(workers), seeds=seeds, seed=seed
            ),
        )  # fmt: skip
        found.append(result)
        return result.edits

    work(results, make, max_failures, search, on_end=lambda: _show(found[0]), address=address)


def _show(result: TuneResult) -> None:
    """Prints the trials that came furthest."""
    from loco_core.editing.base import editor_info, in_words, named
    from orchestrator.cli import table
    from orchestrator.cli.outcome import span

    stopped = sum(trial.request.seeds < result.seeds for trial in result.trials)
    pictures = sum(trial.pictures for trial in result.trials)
    rows = []
    for trial in sorted(result.trials, key=lambda trial: (trial.request.seeds, trial.objective), reverse=True)[:SHOWN]:
        settings, window = trial.request.settings, trial.request.window
        info = editor_info(settings.editor)
        edit = named(settings.editor, settings.targets if info.published else None)
        what = f"{edit} {span(window.start, window.size)}, {in_words(info, settings)}"
        rows.append((what, settings.tokens, trial.request.seeds, f"{trial.flipped:.0%}", f"{trial.neighbour_loss:.0%}"))
    print(f"{len(result.trials)} trials, {stopped} stopped early, {pictures} pictures with an edit")
    table.show(("edit", "tokens", "seeds", "flipped", "neighbours lost"), rows, right=("seeds", "flipped"))
    if result.best is None:
        print("no trial was measured on all seeds: nothing is chosen")
