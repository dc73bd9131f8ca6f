"""``compare``: two results side by side."""

from __future__ import annotations

from typing import Annotated

import typer

from loco_core.errors import printable
from orchestrator.cli.options import JsonOption
from orchestrator.cli.places import results_root

LONGEST = 60
_HELP = "A results folder or address, or its sweep or cluster file."


def compare(
    first: Annotated[str, typer.Argument(help=_HELP, metavar="A", callback=results_root)],
    second: Annotated[str, typer.Argument(help=_HELP, metavar="B", callback=results_root)],
    as_json: JsonOption = False,
) -> None:
    """Compare two results.

    Outcomes, the effects of the windows found with the 95 % interval of their difference, metrics of the chosen edits,
    and what differs in the sweeps. Where prompts and seeds are the same the difference is taken pair by pair.
    """
    import json
    from dataclasses import asdict

    from orchestrator.cli import table
    from orchestrator.cli.outcome import span
    from orchestrator.runs.compare import compare_results

    found = compare_results(first, second)
    if as_json:
        print(json.dumps(asdict(found)))
        return
    table.show(
        ("model", "attribute", "A", "sites A", "B", "sites B"),
        [
            (
                item.model, item.attribute,
                *(
                    cell
                    for of in (item.first, item.second)
                    for cell in (
                        of and of.outcome, span(of.window.start, of.window.size) if of and of.window else None
                    )
                ),
            )
            for item in found.attributes
        ],
        title="Outcomes",
    )  # fmt: skip
    rows = [
        (
            item.model, item.attribute, span(each.window.start, each.window.size), f"{each.first:.2f}",
            f"{each.second:.2f}", f"{each.difference:+.2f} [{each.low:+.2f}, {each.high:+.2f}]",
            "paired" if each.paired else "unpaired",
        )
        for item in found.attributes
        for each in item.differences
    ]  # fmt: skip
    if rows:
        columns = ("model", "attribute", "sites", "A", "B", "B - A", "seeds")
        table.show(columns, rows, title="Effects, with the 95 % interval of the difference", right=("A", "B"))
        print("paired: the same prompts and seeds, compared pair by pair; unpaired: others, taken as independent")
        print("about the prompts of these results; a window that was picked for its effect in A looks stronger there")
        print("than it is, and so does one of B in B")
    else:
        print("no window was swept in both with an effect")
    if found.metrics:
        table.show(
            ("model", "attribute", "edit", "metric", "prompts", "A", "B"),
            [(m.model, m.attribute, m.edit, m.metric, m.role, m.first, m.second) for m in found.metrics],
            title="Metrics of the chosen edits, with 95 % intervals",
        )
    if found.spec is None:
        print("one of them is a table without its sweep: what differs in the sweeps is not known")
    elif found.spec:
        table.show(("key", "A", "B"), [tuple(map(_cut, each)) for each in found.spec], title="What differs")
    else:
        print("the sweeps say the same")


def _cut(text: str | None) -> str | None:
    return text if text is None or len(text) <= LONGEST else printable(f"{text[: LONGEST - 3]}...")
