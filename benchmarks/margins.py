"""What a margin is taken against, and how often its word on an edit is not the judge's: two planted models.

``python -m benchmarks.margins``; resumable. Every style and fact is edited with settings fixed beforehand, as published
and ours, and its pictures are scored with every text that a margin could be taken against. Writes
``benchmarks/margins.json``, a row per model and attribute, and prints its tables; ``--print`` only prints.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.published import (
    GENERATION,
    PROMPTS,
    SEEDS,
    SWEPT,
    Task,
    held_out,
    judge,
    loaded,
    measured,
    rows_of,
    settings_of,
)
from loco_core.attributes import attribute
from loco_core.diffusion.generate import generate
from loco_core.diffusion.model import LoadedModel
from loco_core.editing.base import Concept, Target, editor_info, fit_edit, named
from loco_core.editing.deltas import WeightDelta, applied
from loco_core.editing.splits import splits
from loco_core.scoring.base import load_scorer
from loco_core.statistics import wilson
from loco_core.types import Attribute, Intervention, Row

TABLE = Path(__file__).with_suffix(".json")
FARTHER = ("a photo", "a flag")
"""Texts that are farther from a style's picture than its donor's: the medium alone, and another motif."""
SHARPNESS = 100.0
"""Factor of the scores in the log-mean-exp: that of the cosines in CLIP's own softmax."""

Scores = NDArray[np.float64]


def largest(scores: Scores) -> Scores:
    """Returns the largest score of each picture ``(n,)``."""
    return np.asarray(scores.max(axis=1))


def soft(scores: Scores) -> Scores:
    """Returns the log-mean-exp of each picture's scores ``(n,)``."""
    return np.asarray(np.log(np.exp(SHARPNESS * scores).mean(axis=1)) / SHARPNESS)


@dataclass(frozen=True)
class Way:
    """One way to take a margin.

    Attributes:
        name: what the tables call it.
        donor: the donor's text; empty for the attribute's own.
        siblings: whether the texts of the others of the kind count, too.
        over: what the scores of the texts are brought to one by.
    """

    name: str
    donor: str
    siblings: bool
    over: Callable[[Scores], Scores] = largest


OWN = (
    Way("the donor's text", "", False),
    Way("the donor's text and siblings", "", True),
    Way("the donor's text and siblings, log-mean-exp", "", True, soft),
)
WAYS = {
    "style": (
        *(Way(f'"{text}"', text, False) for text in FARTHER), OWN[0],
        *(Way(f'"{text}" and siblings', text, True) for text in FARTHER), *OWN[1:],
    ),
    "fact": OWN,
}  # fmt: skip


def texts_of(item: Attribute) -> dict[str, Any]:
    """Returns the texts that pictures are compared with: its own, what could stand for the donor, its siblings'."""
    record = item.records[0]
    donors = [record.donor_text, *(FARTHER if item.kind == "style" else ())]
    return {"texts": [record.score_text, *donors, *record.siblings], "donors": len(donors)}


def margins(row: Mapping[str, Any], seen: Mapping[str, Any], way: Way) -> tuple[Scores, NDArray[np.bool_]]:
    """Returns the margin of each picture ``(n,)``, and whether the donor's text fits it better than any sibling's.

    Args:
        row: row of the table, which holds the texts.
        seen: what was seen of the pictures, see `look`.
        way: how the margin is taken.
    """
    scores, texts = np.array(seen["scores"]), row["texts"]
    donor = texts.index(way.donor) if way.donor else 1
    against = scores[:, [donor, *(range(1 + row["donors"], len(texts)) if way.siblings else ())]]
    return scores[:, 0] - way.over(against), against.argmax(axis=1) == 0


def look(model: LoadedModel, item: Attribute, rows: Sequence[Row], delta: WeightDelta | None = None) -> dict[str, Any]:
    """Draws rows, with an edit or without; returns their scores and what the judge names."""
    if delta is not None:
        with applied(model, delta, None):
            return look(model, item, rows)
    pictures = torch.cat([part.images for part in generate(model, rows, GENERATION, len(rows))])
    scorer = load_scorer("toy-clip", None, "cpu")
    scores = scorer.score(scorer.embed_images(pictures), texts_of(item)["texts"])
    names = judge().name(judge().embed_images(pictures), item.kind)
    return {"scores": [[round(float(value), 4) for value in each] for each in scores], "names": names}


def measure(task: Task) -> list[dict[str, Any]]:
    """Returns the row of an attribute of a model: its pictures clean, edited, with windows swapped, of donors."""
    name, key, window = task
    model, item = loaded(name), attribute(key)
    records = held_out(item, PROMPTS)
    rows = rows_of(records, SEEDS * PROMPTS // len(records))
    edits = {}
    for settings in settings_of():
        if settings.editor == "neurons":
            continue
        info, as_published = editor_info(settings.editor), settings.targets == "published"
        sites = window if info.place is None else tuple(range(16)) if info.place == "all_sites" else ()
        mine = item.published_records(settings.editor) if as_published else splits(item, SWEPT)["fit"]
        target = Target(name, "", sites, (Concept(key, mine),), (), "")
        delta = fit_edit(model, target, settings.model_copy(update={"preserve": 0}))
        edits[named(settings.editor, settings.targets)] = look(model, item, rows, delta)
    away = tuple(site for site in range(16) if site not in window)[: len(window)]
    windows = {
        what: look(model, item, [replace(row, intervention=Intervention(sites)) for row in rows])
        for what, sites in (("planted", window), ("elsewhere", away))
    }
    windows["donor"] = look(model, item, [Row(row.donor, row.donor, row.seed) for row in rows])
    found = {
        "model": name, "kind": item.kind, "attribute": key, **texts_of(item), "clean": look(model, item, rows),
        "edits": edits, "windows": windows,
    }  # fmt: skip
    return [found]


def print_flips(kind: str, rows: Sequence[Mapping[str, Any]]) -> None:
    """Prints how often the margin and the judge disagree on what the edits of a kind did.

    Pictures count that had the attribute by both, and of which the judge is sure. Flipped is a style that gave way to
    any other picture, and a fact that gave way to its donor.
    """
    print(
        f"| {kind}s: margin against | had, not by the margin | flipped, not by the margin | kept, not by the margin |"
    )
    print("|---|---|---|---|")
    for way in WAYS[kind]:
        unseen, missed, claimed = [0, 0], [0, 0], [0, 0]
        for row, edited in ((each, edited) for each in rows for edited in each["edits"].values()):
            said, donor = row["attribute"].split("/")[1], row["texts"][1].split()[-1]
            before, (after, is_donor) = margins(row, row["clean"], way)[0], margins(row, edited, way)
            gives_way = (after < 0) & (is_donor | (kind == "style"))
            for had, flips, old, new in zip(before > 0, gives_way, row["clean"]["names"], edited["names"], strict=True):
                if old != said:
                    continue
                unseen[0] += not had
                unseen[1] += 1
                if not had or new == "unsure":
                    continue
                flipped = new != said if kind == "style" else new == donor
                into, wrong = (missed, not flips) if flipped else (claimed, flips)
                into[0] += bool(wrong)
                into[1] += 1
        cells = [f"{share(*each)} of {each[1]}" for each in (unseen, missed, claimed)]
        print(f"| {way.name} |", " | ".join(cells), "|")
    print()


def share(hits: int, of: int) -> str:
    """Returns a share with Wilson's 95 % interval, in percent."""
    low, high = wilson(hits, of)
    return f"{100 * hits / max(of, 1):.1f} ({100 * low:.1f} to {100 * high:.1f}) %"


def print_effects(kind: str, rows: Sequence[Mapping[str, Any]]) -> None:
    """Prints the effects of swapped windows under each margin, and how much prompts and seeds scatter."""
    print(f"| {kind}s: margin against | effect of the planted window | elsewhere | scatter of a picture's effect |")
    print("|---|---|---|---|")
    for way in WAYS[kind]:
        effects: dict[str, list[float]] = {"planted": [], "elsewhere": []}
        scatter = []
        for row in rows:
            clean = margins(row, row["clean"], way)[0]
            full = clean - margins(row, row["windows"]["donor"], way)[0]
            drops = {what: clean - margins(row, row["windows"][what], way)[0] for what in effects}
            for what, drop in drops.items():
                effects[what].append(float(drop.sum() / full.sum()))
            scatter.append(float((drops["planted"] - effects["planted"][-1] * full).std() / full.mean()))
        means = [float(np.mean(values)) for values in effects.values()]
        print(f"| {way.name} | {means[0]:.2f} | {means[1]:.2f} | {np.median(scatter):.2f} |")
    print()


def main() -> None:
    """Measures what is missing and prints all that is measured."""
    rows = measured(__doc__, TABLE, tuple(WAYS), measure)
    for show in (print_flips, print_effects):
        for kind in WAYS:
            show(kind, [row for row in rows if row["kind"] == kind])


if __name__ == "__main__":
    main()
