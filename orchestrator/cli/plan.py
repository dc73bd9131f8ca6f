"""``plan``: what a run would do. Runs nothing."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.cli.options import JsonOption, ResultsOption, SweepFile, placed, results_of

if TYPE_CHECKING:
    from orchestrator.driver import Outlook
    from orchestrator.spec import SweepSpec


def plan(sweep: SweepFile, results: ResultsOption = None, as_json: JsonOption = False) -> None:
    """Show units, images, time and the smallest effect that the sweep can find."""
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
    print(f"time:    about {duration(found.seconds)} on one worker, by the cost table")
    print(
        f"effects: a window whose effect is {found.minimum_detectable_effect:.2f} above the threshold"
        f" ({spec.localize.threshold}) is shown to reach it in four of five sweeps of {spec.prompts} prompts"
        f" and {len(spec.seeds)} seeds"
    )


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
