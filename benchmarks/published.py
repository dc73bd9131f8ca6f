"""Editors as published beside ours, and neurons over their share, on every style and fact of two planted models.

``python -m benchmarks.published``; resumable. A kind is edited where the localizer finds its example in the bundled
score tables, with settings fixed beforehand, nothing chosen: LocoEdit and neurons at these sites, UCE and DiffQuickFix
where they edit. Pictures are of prompts whose contents no edit was fitted on. Writes ``benchmarks/published.json``, a
one row per edit, and prints its tables; ``--print`` only prints.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

import torch

from benchmarks.edits import localized, sweep
from loco_core.attributes import attribute
from loco_core.diffusion.facts import find_model
from loco_core.diffusion.generate import generate
from loco_core.diffusion.model import LoadedModel, load_model
from loco_core.editing.base import Concept, EditSettings, HeldHalf, Target, Targets, editor_info, fit_edit, named
from loco_core.editing.deltas import WeightDelta, applied
from loco_core.editing.editors.neurons import random_neurons
from loco_core.editing.splits import fit_templates, splits
from loco_core.scoring.base import load_judge
from loco_core.types import Attribute, Generation, PromptRecord, Row
from orchestrator.stages.edit.fitting import nearest
from orchestrator.stages.edit.plan import FIRST_SEED

TABLE = Path(__file__).with_suffix(".json")
MODELS = ("toy-planted-a", "toy-planted-b")
Task = tuple[str, str, tuple[int, ...]]
"""Model, attribute, and the sites where attributes of its kind are localized."""

SHARES = (0.1, 0.15, 0.25, 0.35, 0.5)
LARGE = (0.25, 0.5)
HALVES: tuple[HeldHalf, ...] = ("conditional", "both")
USUAL = ("last_subject", "conditional")
SWEPT, PRESERVED, WATCHED = 8, 8, 3
"""Prompts that a sweep takes, which decides the splits; attributes that are preserved where an editor can, watched."""
PROMPTS, SEEDS, NEIGHBOUR_PROMPTS, NEIGHBOUR_SEEDS = 8, 3, 3, 2
GENERATION = Generation(steps=8, guidance_scale=3.0)
OURS = {
    "loco_edit": {"tokens": "all", "strength": 0.1, "preserve": PRESERVED},
    "uce": {"tokens": "last_subject", "strength": 0.5, "preserve": PRESERVED},
    "diff_quick_fix": {"tokens": "tail", "strength": 0.01},
}


@dataclass(frozen=True)
class Seen:
    """What the judge names in pictures, by kind."""

    rows: Sequence[Row]
    names: Mapping[str, Sequence[str]]

    def part(self, start: int, end: int) -> Seen:
        """Returns some of the pictures."""
        return Seen(self.rows[start:end], {kind: names[start:end] for kind, names in self.names.items()})


@cache
def loaded(model: str) -> LoadedModel:
    """Loads a bundled model, once a process."""
    torch.set_num_threads(1)
    family, info = find_model(model)
    return load_model(family, str(info.path), None, "float32", "cpu")


@cache
def judge() -> Any:
    """Loads the judge, once a process."""
    return load_judge("toy-judge", "cpu")


def look(model: LoadedModel, rows: Sequence[Row], delta: WeightDelta | None = None) -> Seen:
    """Draws rows, with an edit or without, and names what is seen."""
    if delta is not None:
        with applied(model, delta, None):
            return look(model, rows)
    # One batch: a batch that is not full is filled up.
    pictures = torch.cat([part.images for part in generate(model, rows, GENERATION, len(rows))])
    found = judge().embed_images(pictures)
    return Seen(rows, {kind: judge().name(found, kind) for kind in judge().kinds})


def rows_of(records: Sequence[PromptRecord], seeds: int) -> list[Row]:
    """Returns a row a record and seed."""
    return [
        Row(record.prompt, record.donor, FIRST_SEED["report"] + seed) for record in records for seed in range(seeds)
    ]


def held_out(item: Attribute, count: int) -> list[PromptRecord]:
    """Returns an attribute's first prompts of contents that no edit is fitted on."""
    familiar = fit_templates(item)
    return [record for record in splits(item, SWEPT)["report"] if record.template_id in familiar][:count]


def counts_of(kind: str, clean: Seen, edited: Seen) -> dict[str, int]:
    """Counts, of the pictures that had what their prompt says, those that lost it, show the donor's, keep the rest."""
    counts = {"had": 0, "gone": 0, "flipped": 0, "content_had": 0, "content_kept": 0}
    for at, row in enumerate(clean.rows):
        said = judge().said(row.prompt, kind)
        if clean.names[kind][at] == said:
            counts["had"] += 1
            counts["gone"] += edited.names[kind][at] != said
            counts["flipped"] += edited.names[kind][at] == judge().said(row.donor, kind)
        beside = {other: judge().said(row.prompt, other) for other in judge().kinds if other != kind}
        shown = {other: name for other, name in beside.items() if name is not None}
        if shown and all(clean.names[other][at] == name for other, name in shown.items()):
            counts["content_had"] += 1
            counts["content_kept"] += all(edited.names[other][at] == name for other, name in shown.items())
    return counts


def settings_of() -> Iterator[EditSettings]:
    """Yields every edit that is compared."""
    both: tuple[Targets, ...] = ("published", "paired")
    for editor, targets in product(OURS, both):
        info = editor_info(editor)
        known = info.published
        assert known is not None
        if targets == "paired":
            yield EditSettings.model_validate({"editor": editor, **OURS[editor]})
        else:
            preserve = PRESERVED if "published" in info.preserves else 0
            yield EditSettings(
                editor=editor, targets="published", tokens=known.tokens, strength=known.strength, preserve=preserve
            )
    for half, share in product(HALVES, SHARES):
        yield EditSettings(editor="neurons", tokens="last_subject", neurons=share, guidance_half=half)
    for share in LARGE:
        yield EditSettings(editor="neurons", tokens="last_position", neurons=share)


def measure(task: Task) -> list[dict[str, Any]]:
    """Returns one row per edit of one attribute of one model at some sites."""
    name, key, window = task
    model, item = loaded(name), attribute(key)
    near = nearest(model, (), item)
    records = held_out(item, PROMPTS)
    targets = rows_of(records, SEEDS * PROMPTS // len(records))
    watched = [record for other in near[:WATCHED] for record in held_out(attribute(other), NEIGHBOUR_PROMPTS)]
    count, every = len(targets), [*targets, *rows_of(watched, NEIGHBOUR_SEEDS)]
    before, found = look(model, every), []
    for settings in settings_of():
        info, as_published = editor_info(settings.editor), settings.targets == "published"
        sites = window if info.place is None else tuple(range(16)) if info.place == "all_sites" else ()
        mine = item.published_records(settings.editor) if as_published else splits(item, SWEPT)["fit"]
        others = [attribute(other) for other in near[: settings.preserve]]
        kept = [
            record
            for other in others
            for record in (other.published_records(settings.editor) if as_published else splits(other, SWEPT)["fit"])
        ]
        target = Target(name, "", sites, (Concept(key, mine),), tuple(kept))
        delta = fit_edit(model, target, settings)
        # Neighbours, and as many other neurons of each projection, where neurons are at their defaults.
        usual = settings.editor != "neurons" or (settings.tokens, settings.guidance_half) == USUAL
        drawn = [("", delta, len(every) if usual else count)]
        if settings.editor == "neurons" and (usual or settings.neurons == max(SHARES)):
            drawn.append(("random", random_neurons(model, target, settings, delta, 0), count))
        for control, one, shown in drawn:
            after = look(model, every[:shown], one)
            spared = counts_of(item.kind, before.part(count, shown), after.part(count, shown))
            found.append(
                {
                    "model": name, "attribute": key, "kind": item.kind, "sites": list(window), "control": control,
                    "editor": settings.editor, "targets": settings.targets if info.published else None,
                    "settings": settings.model_dump(), "ridge": one.ridge,
                    **counts_of(item.kind, before.part(0, count), after.part(0, count)),
                    "neighbours_had": spared["had"], "neighbours_kept": spared["had"] - spared["gone"],
                }
            )  # fmt: skip
    return found


def rate(rows: Sequence[Mapping[str, Any]], part: str, whole: str) -> str:
    """Returns a share over all rows together, in percent."""
    of = sum(row[whole] for row in rows)
    return f"{100 * sum(row[part] for row in rows) / of:.0f}" if of else "-"


def print_editors(rows: Sequence[Mapping[str, Any]]) -> None:
    """Prints published edits and ours side by side, one line per attribute."""
    print("| model, attribute | sites |", " | ".join(named(e, t) for e in OURS for t in ("published", "paired")), "|")
    print("|---|---|" + "---|" * (2 * len(OURS)))
    blocks = dict.fromkeys((row["model"], row["kind"], row["attribute"]) for row in rows)
    kinds = dict.fromkeys(block[:2] for block in blocks)
    for model, kind in kinds:
        names = [block[2] for block in blocks if block[:2] == (model, kind)]
        for title, some in [*((name, [name]) for name in names), (f"**all {kind}s**", names)]:
            cells, sites = [], ""
            for editor, targets in product(OURS, ("published", "paired")):
                mine = [
                    row for row in rows
                    if (row["model"], row["editor"], row["targets"]) == (model, editor, targets)
                    and row["attribute"] in some
                ]  # fmt: skip
                sites = f"{mine[0]['sites'][0]}-{mine[0]['sites'][-1]}"
                cells.append(
                    f"{rate(mine, 'gone', 'had')} ({rate(mine, 'flipped', 'had')}), "
                    f"{rate(mine, 'content_kept', 'content_had')}, {rate(mine, 'neighbours_kept', 'neighbours_had')}"
                )
            print("|", " | ".join([f"{model[-1]}, {title}", sites, *cells]), "|")


def print_neurons(rows: Sequence[Mapping[str, Any]]) -> None:
    """Prints what neurons do over their share, one line per attribute, half and control."""
    print("| model, attribute | half | neurons |", " | ".join(f"{share:.0%}" for share in SHARES), "|")
    print("|---|---|---|" + "---|" * len(SHARES))
    lines: dict[tuple[str, ...], dict[float, list[Mapping[str, Any]]]] = {}
    for row in rows:
        if row["editor"] == "neurons":
            where = {"last_subject": "last word", "last_position": "last position"}[row["settings"]["tokens"]]
            said = (row["settings"]["guidance_half"], row["control"] or where)
            for name in (row["attribute"], f"**all {row['kind']}s**"):
                mine = lines.setdefault((f"{row['model'][-1]}, {name}", *said), {})
                mine.setdefault(row["settings"]["neurons"], []).append(row)
    for key, by_share in sorted(lines.items()):
        cells = []
        for share in SHARES:
            some = by_share.get(share, [])
            kept = rate(some, "neighbours_kept", "neighbours_had")
            cells.append(
                f"{rate(some, 'gone', 'had')} ({rate(some, 'flipped', 'had')}), "
                f"{rate(some, 'content_kept', 'content_had')}{'' if kept == '-' else f', {kept}'}"
                if some else "-"
            )  # fmt: skip
        print("|", " | ".join([*key, *cells]), "|")


def print_tables(rows: Sequence[Mapping[str, Any]]) -> None:
    """Prints both tables."""
    print("In percent: gone (shows the donor's class), content kept, neighbours kept.\n")
    print_editors(rows)
    print()
    print_neurons(rows)


def measured(
    about: str | None, table: Path, kinds: Sequence[str], measure: Callable[[Task], Sequence[dict[str, Any]]]
) -> list[dict[str, Any]]:
    """Measures the attributes that a table lacks, if the command line does not forbid it; returns all its rows.

    Args:
        about: what the command does, for its help.
        table: JSON file of the rows, written after every attribute.
        kinds: kinds of attributes, of both models.
        measure: returns the rows of one attribute of one model, whose kind is localized at some sites.
    """
    parser = argparse.ArgumentParser(description=about)
    parser.add_argument("--workers", type=int, default=1, help="processes, of one thread each")
    parser.add_argument("--print", action="store_true", dest="only_print")
    arguments = parser.parse_args()
    rows: list[dict[str, Any]] = json.loads(table.read_text()) if table.exists() else []
    tasks = []
    for model in [] if arguments.only_print else MODELS:
        for kind in kinds:
            window = localized(model, kind, "")
            assert window is not None, f"{kind}s of {model} are localized in the bundled tables"
            keys = [str(key) for key in sweep(model, {}).attributes if str(key).startswith(kind)]
            tasks += [(model, key, window.sites) for key in keys]
    done = {(row["model"], row["attribute"]) for row in rows}
    missing = [task for task in tasks if task[:2] not in done]
    if missing:
        with multiprocessing.get_context("spawn").Pool(arguments.workers) as pool:
            for found in pool.imap_unordered(measure, missing):
                rows = sorted([*rows, *found], key=lambda row: (row["model"], row["kind"], row["attribute"]))
                table.write_text(json.dumps(rows) + "\n")
                print(found[0]["model"], found[0]["attribute"], flush=True)
    return rows


def main() -> None:
    """Measures what is missing and prints all that is measured."""
    print_tables(measured(__doc__, TABLE, ("fact", "style"), measure))


if __name__ == "__main__":
    main()
