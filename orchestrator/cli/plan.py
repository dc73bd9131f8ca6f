"""``plan``: what a run would do. Runs nothing."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING

from loco_core.errors import printable
from orchestrator.cli.options import JsonOption, Overrides, ResultsOption, SweepFile

if TYPE_CHECKING:
    from loco_core.localization.power import Reach
    from orchestrator.resolve.judge_cost import JudgeCost
    from orchestrator.runs.outlook import Outlook

MEASURED = "at the pace so far, without loading"
ASSUMED = "by an assumed cost per image: an idle machine,\n         without loading; once units are done, by their pace"


def plan(
    sweep: SweepFile, overrides: Overrides = None, results: ResultsOption = None, as_json: JsonOption = False
) -> None:
    """Show what a run costs, and what it can show.

    It runs and writes nothing. Of a cluster file it plans the sweep that the file names, with GPU hours and cost; no
    cluster and no bucket is asked, unless --results names one.
    """
    from loco_core.localization.base import rule
    from orchestrator.cli.bill import expected, expected_lines
    from orchestrator.cli.places import cluster_of, source_of
    from orchestrator.face.progress import duration
    from orchestrator.face.sweep import outlook_of, placed, results_of
    from orchestrator.spec import load_sweep

    cluster = cluster_of(sweep, overrides)
    if cluster is None:
        source = source_of(sweep, overrides)
        spec = load_sweep(source)
    else:
        source, spec = None, cluster.sweep
    root = results_of(spec, results)
    unread = cluster is not None and results is None and "://" in root
    with placed(source):
        found = outlook_of(spec, None if unread else root)
    if as_json:
        bill = {"bill": asdict(expected(found, cluster.spec))} if cluster else {}
        print(json.dumps({**asdict(found), **bill}))
        return
    if unread:
        print(f"all of it: {root} is not looked at; --results {root} counts what remains")
    for model in found.models:
        how = f"{model.steps} steps, guidance {model.guidance_scale:g}, {model.dtype}"
        print(f"drawn:   {printable(model.model)} at {how}")
    print(f"units:   {found.units:,}")
    if found.guessed_batches:
        print(f"         if batches hold 8 images: the run measures that first for {', '.join(found.guessed_batches)}")
    print(f"images:  {found.images:,}{_per_cell(found)}")
    if found.edits.images:
        print(f"         and up to {found.edits.images:,} for edits, if every attribute is localized")
    print(f"cells:   {found.cells:,}")
    if found.most_cells is not None:
        print(
            f"         to begin with; the localizer asks for more as it goes, at most {found.most_cells:,}"
            " in all and some complements"
        )
    elif rule(spec.localize.localizer).bounds:
        print("         and complements of some windows, where none passes by itself or one is localized")
    for words in found.donors:
        print(f"donor:   {printable(words)}")
    for reason in found.unedited:
        print(f"edits:   not of {printable(reason)}")
    print(f"time:    about {duration(found.seconds)} on one worker, {MEASURED if found.measured else ASSUMED}")
    if found.edits.images:
        print(f"         and up to {duration(found.edits.seconds)} for edits")
    if found.judge is not None:
        print(f"judge:   {printable(_of_judge(found.judge, found.edits.images))}")
    for line in expected_lines(found, cluster.spec) if cluster else ():
        print(line)
    if rule(spec.localize.localizer).bounds:
        _print_reach(found.reach)
        for size in found.unswept:
            print(
                f"limits:  not all windows of {size} sites, the most in range, are swept (localize.max_share): where no"
            )
            print("         window passes, the outcome is inconclusive, never distributed")
    else:
        print(f"power:   {spec.localize.localizer} always picks a window, without a bound: not whether it holds the")
        print("         attribute, and nothing of other pictures")
    for line in found.by_default:
        print(f"family:  {printable(line)}")
    for warning in found.warnings:
        print(f"warning: {printable(warning)}")


def _of_judge(judge: JudgeCost, images: int) -> str:
    """Returns what a judge takes, in words."""
    from orchestrator.face.progress import duration, size

    memory = "weights of unknown size" if judge.bytes is None else size(judge.bytes)
    said = f"{judge.judge} holds {memory} beside each pipeline, from the start of a worker"
    if judge.seconds_per_image is None or not images:
        return said
    return f"{said}; about {duration(judge.seconds_per_image * images)} more for edits (assumed, on a GPU)"


def _per_cell(found: Outlook) -> str:
    """Returns the text with the images per cell, rounded to two places."""
    if found.images_per_cell is None or found.most_images_per_cell is None:
        return ""
    least, most = f"{found.images_per_cell:.2f}", f"{found.most_images_per_cell:.2f}"
    spread = f", up to {most} where workers share a prompt and seed" if least != most else ""
    return f" ({least} per cell{spread})"


def _print_reach(reach: Reach) -> None:
    """Says what the sweep can show, and of whom."""
    if reach.why_none:
        return
    print(f"power:   a window that removes everything is found in {100 * reach.whole:.0f} of 100 sweeps;", end="")
    print(f" one that removes 0.9 in {100 * reach.most:.0f}")
    print("         (if pictures vary as on the bundled models)")
    if reach.prompts == 1:
        print("prompts: this one; it says nothing of others")
        return
    print(f"prompts: these {reach.prompts}; a window that holds in all of them holds in at least", end="")
    print(f" {reach.prompt_share:.0%} of prompts")
    print(f"         like these, at {100 * reach.confidence:g}% confidence (more than half takes", end="")
    print(f" {reach.prompts_for_most} prompts, {reach.threshold:.0%} takes {reach.prompts_for_threshold})")
