"""``show``: the effects of one attribute, window by window, as its results hold them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from orchestrator.cli.options import JsonOption, Results

if TYPE_CHECKING:
    from collections.abc import Sequence

    from orchestrator.runs.effects import Profile

BARS = "▁▂▃▄▅▆▇█"


def show(
    results: Results,
    attribute: Annotated[str, typer.Argument(help="Attribute, such as style/van-gogh.")],
    model: Annotated[str | None, typer.Option("--model", help="Only this model.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Show the effects of an attribute.

    One line per model and window size: the effect at every start, as bars from 0 to 1, and the best window. Below, what
    edits did that it was edited by with other attributes.
    """
    import json
    from dataclasses import asdict

    from orchestrator.cli import table
    from orchestrator.cli.outcome import print_matrix, span
    from orchestrator.runs.effects import profiles
    from orchestrator.runs.several import matrices_of
    from orchestrator.store import open_store

    store = open_store(results, create=False)
    found = profiles(store, attribute, model)
    if as_json:
        print(json.dumps([asdict(profile) for profile in found]))
        return
    table.show(
        ("model", "size", "effect by start", "best", "effect", "outcome"),
        [
            (
                item.model, item.size, f"{item.starts[0]} {bars(item.effects)} {item.starts[-1]}",
                None if item.best is None else span(item.best, item.size), _with_interval(item), item.outcome,
            )
            for item in found
        ],
        title=attribute, right=("size",),
    )  # fmt: skip
    for matrix in matrices_of(store, attribute, model):
        print_matrix(matrix)


def _with_interval(item: Profile) -> str | None:
    if item.effect is None or item.low is None or item.high is None:
        return None if item.effect is None else f"{item.effect:.2f}"
    return f"{item.effect:.2f} [{item.low:.2f}, {item.high:.2f}]"


def bars(effects: Sequence[float | None]) -> str:
    """Draws effects as bars, 0 and less the lowest, 1 and more the highest; a dot where nothing is known."""
    last = len(BARS) - 1
    return "".join("·" if value is None else BARS[round(last * min(max(value, 0.0), 1.0))] for value in effects)
