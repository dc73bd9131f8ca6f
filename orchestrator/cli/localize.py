"""``localize``: find layers in scores again, by other rules."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from loco_core.errors import printable
from orchestrator.cli.options import JsonOption, TrustOption, parse_window
from orchestrator.cli.places import results_root

if TYPE_CHECKING:
    from loco_core.localization.base import Localization
    from loco_core.localization.kind_claim import KindClaim


def localize(
    scores: Annotated[
        str,
        typer.Argument(
            metavar="RESULTS",
            help="A results folder, its sweep or cluster file, or any Parquet with the columns of scores.",
            callback=results_root,
        ),
    ],
    localizer: Annotated[
        str | None, typer.Option(help="Name of a localizer, or a Python file; default: the sweep's.")
    ] = None,
    threshold: Annotated[
        float | None, typer.Option(min=0.01, max=1, help="Share of the full effect to be reached; default: 0.8.")
    ] = None,
    claim: Annotated[
        str | None,
        typer.Option(metavar="KIND", help="Test that all attributes of this kind are held at --window."),
    ] = None,
    window: Annotated[
        str | None,
        typer.Option(
            metavar="START,SIZE",
            help="Test this window alone; it must have been chosen before these scores were seen.",
        ),
    ] = None,
    write: Annotated[bool, typer.Option("--write", help="Replace effects and localizations in the results.")] = False,
    trust: TrustOption = False,
    as_json: JsonOption = False,
) -> None:
    """Localize again from scores, by other rules."""
    import json
    from dataclasses import asdict

    from loco_core import plugins
    from loco_core.errors import SpecError
    from orchestrator.cli.outcome import print_localizations
    from orchestrator.runs.localize import claim as test_claim
    from orchestrator.runs.localize import localize_results, named_beforehand, read_scores, write_back
    from orchestrator.spec.places import key_or_file

    named = None if localizer is None else key_or_file(localizer)
    plugins.name([named] if named else [])
    changes: dict[str, Any] = {"localizer": named, "threshold": threshold}
    table, settings = read_scores(scores), {key: value for key, value in changes.items() if value is not None}
    if claim is not None and window is None:
        raise SpecError("--claim KIND needs --window START,SIZE: a claim is about a kind at a window")
    if claim is not None and window is not None:
        _print_claims(test_claim(table, claim, parse_window(window), settings), as_json)
        return
    if window is not None:
        if write or localizer is not None:
            raise SpecError("--window judges one window by itself; expected it without --write and --localizer")
        _print_named(named_beforehand(table, parse_window(window), settings), as_json)
        return
    if write and table.store is None:
        raise SpecError(f"--write: {scores} is no results folder")
    found, beside = localize_results(table, settings)
    if write:
        write_back(table, found, beside)
    if as_json:
        print(json.dumps([asdict(item) for item in (*found, *beside)]))
        return
    print_localizations(found)
    for item in found:
        print(printable(f"{item.model} {item.attribute}: {item.words}: {item.reason}"))
    for item in beside:
        print(printable(f"{item.model} {item.attribute}: by {item.localizer} {item.words}: {item.reason}"))


def _print_named(found: Sequence[Localization], as_json: bool) -> None:
    """Prints what one window that was named beforehand does in every attribute."""
    import json
    from dataclasses import asdict

    if as_json:
        rows = [
            {"model": item.model, "attribute": item.attribute, **asdict(row)} for item in found for row in item.effects
        ]
        print(json.dumps(rows))
        return
    for item in found:
        for row in item.effects:
            sites = f"sites {row.window_start}-{row.window_start + row.window_size - 1}"
            where = printable(f"{item.model} {item.attribute}: {sites}")
            if row.effect is None or row.simultaneous_low is None or row.prompt_share_low is None:
                print(f"{where}: {item.outcome}: {item.reason}")
                continue
            reach = "reach" if row.simultaneous_low >= item.threshold else "are not shown to reach"
            low, share = f"{row.simultaneous_low:.2f}", f"{row.prompt_share_low:.0%}"
            whom = " in this prompt, which shows nothing of others"
            if item.n_prompts > 1:
                held = f"hold in {row.holds_in} of them, at least {share} of prompts like these"
                whom = f" in these {item.n_prompts} prompts; {held}"
            print(f"{where} {reach} {item.threshold:.0%}: effect {row.effect:.2f}, at least {low}{whom}")


def _print_claims(found: Sequence[KindClaim], as_json: bool) -> None:
    import json
    from dataclasses import asdict

    if as_json:
        print(json.dumps([asdict(item) for item in found]))
        return
    for item in found:
        sites = f"sites {item.window.start}-{item.window.start + item.window.size - 1}"
        verdict = "holds" if item.holds else "is not shown"
        print(
            f"{printable(item.model)}: that the mean effect of {sites} on {item.kind} attributes reaches the threshold"
            f" {verdict}:"
            f" {item.effect:.2f} ({item.ci_low:.2f} to {item.ci_high:.2f}) over {len(item.attributes)} attributes"
        )
        for each in item.attributes:
            effect = "-" if each.effect is None else f"{each.effect:.2f}"
            note = "" if each.holds else " (not shown)"
            print(f"  {printable(each.attribute)}: effect {effect}, adjusted p {each.p_holm:.3g}{note}")
