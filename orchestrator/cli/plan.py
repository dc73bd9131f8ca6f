"""``plan``: what a run would do. Runs nothing."""

from __future__ import annotations

import json
from dataclasses import asdict

from orchestrator.cli.options import JsonOption, ResultsOption, SweepFile, placed, results_of


def plan(sweep: SweepFile, results: ResultsOption = None, as_json: JsonOption = False) -> None:
    """Show units, images, time and the smallest effect that the sweep can find."""
    from orchestrator.cli.progress import duration
    from orchestrator.driver import outlook
    from orchestrator.resolve import resolve
    from orchestrator.spec import load_sweep

    spec = load_sweep(sweep)
    with placed(sweep):
        found = outlook(spec, resolve(spec), results_of(spec, results))
    if as_json:
        print(json.dumps(asdict(found)))
        return
    print(f"units:   {found.units}")
    if found.guessed_batches:
        print(f"         if batches hold 8 images: the run measures that first for {', '.join(found.guessed_batches)}")
    print(f"images:  {found.images}")
    print(f"cells:   {found.cells}")
    print(f"time:    about {duration(found.seconds)} on one worker, by the cost table")
    print(
        f"effects: a window whose effect is {found.minimum_detectable_effect:.2f} above the threshold"
        f" ({spec.localize.threshold}) is shown to reach it in four of five sweeps of {spec.prompts} prompts"
        f" and {len(spec.seeds)} seeds"
    )
