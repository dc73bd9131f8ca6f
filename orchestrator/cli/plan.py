"""``plan``: what a run would do. Runs nothing."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from loco_core.errors import printable
from orchestrator.cli.options import JsonOption, ResultsOption, SweepFile, placed, results_of

if TYPE_CHECKING:
    from loco_core.power import Reach
    from orchestrator.driver import Outlook
    from orchestrator.spec import SweepSpec


def plan(sweep: SweepFile, results: ResultsOption = None, as_json: JsonOption = False) -> None:
    """Show units, images, time and what the sweep can show."""
    from loco_core.localizers import rule
    from orchestrator.cli.progress import duration
    from orchestrator.spec import load_sweep

    spec = load_sweep(sweep)
    with placed(sweep):
        found = _outlook(spec, results_of(spec, results))
    if as_json:
        print(json.dumps(asdict(found)))
        return
    print(f"units:   {found.units}")
    if found.guessed_batches:
        print(f"         if batches hold 8 images: the run measures that first for {', '.join(found.guessed_batches)}")
    print(f"images:  {found.images}")
    print(f"cells:   {found.cells}")
    if found.most_cells is not None:
        print(
            f"         to begin with; the localizer asks for more as it goes, at most {found.most_cells}"
            " in all and some complements"
        )
    elif rule(spec.localize.localizer).bounds:
        print("         and complements of some windows, where none passes by itself or one is localized")
    for reason in found.unedited:
        print(f"edits:   not of {printable(reason)}")
    print(f"time:    about {duration(found.seconds)} on one worker, by the cost table")
    if rule(spec.localize.localizer).bounds:
        _print_reach(found.reach)
    else:
        print(f"whom:    these pictures: {spec.localize.localizer} picks a window whatever they show, without bounds")


def _print_reach(reach: Reach) -> None:
    """Says what the sweep can show, and of whom."""
    if reach.why_none:
        print(f"shows:   no window can be localized: {reach.why_none}")
        return
    print("shows:   if pictures vary as on the bundled models, a window that takes the attribute from every picture")
    print(f"         passes in about {reach.whole:.0%} of such sweeps, one that takes it from nine in ten in", end="")
    print(f" {reach.most:.0%}")
    if reach.prompts == 1:
        print("whom:    this one prompt; it says nothing of others")
        return
    print(f"whom:    these {reach.prompts} prompts; a window that holds in all of them holds in at least", end="")
    print(f" {reach.prompt_share:.0%} of prompts")
    print(f"         like these, at {100 * reach.confidence:g}% confidence (more than half takes", end="")
    print(f" {reach.prompts_for_most} prompts, {reach.threshold:.0%} takes {reach.prompts_for_threshold})")


def _outlook(spec: SweepSpec, root: str) -> Outlook:
    """Counts what remains; before a sweep has results it can be counted without weights, too."""
    from loco_core.errors import ModelError
    from orchestrator.driver import outlook
    from orchestrator.resolve import outline, resolve

    try:
        return outlook(spec, resolve(spec), root)
    except ModelError as error:
        if "://" in root or Path(root).is_dir():
            raise
        found = outlook(spec, outline(spec), None)
        print(f"weights are missing: {error}\nwhat follows is counted from what is published", file=sys.stderr)
        return found
