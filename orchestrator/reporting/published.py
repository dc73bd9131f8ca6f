"""What a sweep found, beside what the work that it reproduces published."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from loco_core.diffusion.facts import families, find_model
from loco_core.statistics import crossed_means
from loco_core.types import Window
from orchestrator.presets import Published, PublishedEdit, PublishedWindow, published
from orchestrator.reporting.findings import Block, Finding, Findings, sites
from orchestrator.stages.edit.summary import CONFIDENCE
from orchestrator.store import Store

NOTHING = "–"


@dataclass(frozen=True)
class WindowLine:
    """One attribute of one model, in words.

    Attributes:
        model: its id.
        attribute: its key.
        published: window where it was published to sit.
        source: how sure it is that this was published.
        at_published: effect of the published window, measured.
        best: the best window and its effect, measured.
        agreement: sentence on how the two go together.
    """

    model: str
    attribute: str
    published: str
    source: str
    at_published: str
    best: str
    agreement: str


@dataclass(frozen=True)
class EditLine:
    """What one edit does to the CLIP score of pictures that have nothing to do with it, in words.

    Attributes:
        model: its id.
        attribute: attribute that is edited.
        edit: editor, place and settings.
        published: score before and after, and on what.
        source: how sure it is that this was published.
        measured: scores as measured here.
    """

    model: str
    attribute: str
    edit: str
    published: str
    source: str
    measured: str


@dataclass(frozen=True)
class Beside:
    """Published beside measured values.

    Attributes:
        work: authors and place of the work.
        confidence: confidence of the intervals of windows.
        windows: one entry per attribute and model.
        edits: one entry per chosen edit whose like was published.
        notes: sentences that a reader must know beside them.
    """

    work: str
    confidence: float
    windows: tuple[WindowLine, ...]
    edits: tuple[EditLine, ...]
    notes: tuple[str, ...]


def beside(findings: Findings, store: Store) -> Beside | None:
    """Puts what was measured beside what was published; None of a sweep that reproduces nothing.

    Windows of a model with another number of sites than the published one has are other windows: it is left out.

    Raises:
        StoreError: a file is damaged.
    """
    if findings.spec.reproduces is None:
        return None
    known = published(findings.spec.reproduces)
    family, info = find_model(known.model)
    n_sites = len(families()[family].site_names(dict(info.published)))
    others = {model: len(names) for model, names in findings.sites.items() if len(names) != n_sites}
    items = [item for item in findings.items if item.row["model"] not in others]
    keys = [findings.effects[name] for name in ("model", "attribute", "window_start", "window_size")]
    effects = {
        (model, attribute, start, size): {name: values[i] for name, values in findings.effects.items()}
        for i, (model, attribute, start, size) in enumerate(zip(*keys, strict=True))
    }
    notes = (
        f"Published of {known.model}, {known.by}; sites are counted from 0 in the order in which its {n_sites} run.",
        *_smallest(known),
        *known.notes,
        *(
            f"{model} is left out: it has {count} sites, {known.model} has {n_sites}."
            for model, count in others.items()
        ),
    )
    edits = tuple(_edit_lines(items, known.edits, store)) if known.edits else ()
    lines = tuple(_window_line(item, known, effects) for item in items)
    return Beside(known.work, findings.spec.localize.confidence, lines, edits, notes)


def _smallest(known: Published) -> Iterator[str]:
    if known.smallest is not None:
        yield f"The smallest window that was published has {known.smallest.size} sites ({known.smallest.source})."


def _window_line(
    item: Finding, known: Published, effects: Mapping[tuple[str, str, int, int], Mapping[str, Any]]
) -> WindowLine:
    row, window, at, at_published = item.row, known.window_of(item.row["attribute"]), None, NOTHING
    if window is not None:
        at = effects.get((*item.block, window.start, window.size))
        at_published = "not swept" if at is None else _effect(at)
    # A localizer of one's own may name no best window beside the one that it picks.
    which = "window" if row["window_start"] is not None else "best"
    best = NOTHING
    if row[f"{which}_start"] is not None:
        best = f"{sites(row[f'{which}_start'], row[f'{which}_size'])}: {_effect(row)}"
    return WindowLine(
        model=row["model"],
        attribute=row["attribute"],
        published=NOTHING if window is None else sites(window.start, window.size),
        source="no window found published" if window is None else window.source,
        at_published=at_published,
        best=best,
        agreement=_agreement(row, window, at),
    )


def _agreement(row: Mapping[str, Any], known: PublishedWindow | None, at: Mapping[str, Any] | None) -> str:
    if row["outcome"] != "localized":
        return f"not localized: {row['outcome'].replace('_', ' ')}"
    found = Window(row["window_start"], row["window_size"])
    if known is None:
        return f"localized at {sites(found.start, found.size)}"
    if found == known.window:
        return "same window"
    how = "overlaps" if found.overlaps(known.window) else "other sites"
    return f"{how}, not told apart from the published window" if at is not None and at["in_tie_set"] else how


def _effect(row: Mapping[str, Any]) -> str:
    """An effect with its two-sided interval; a localizer without bounds gives none."""
    if row["effect"] is None:
        return "no effect to measure"
    if row["ci_low"] is None or row["ci_high"] is None:
        return f"{row['effect']:.0%}"
    return f"{row['effect']:.0%} [{row['ci_low']:.0%}, {row['ci_high']:.0%}]"


def _edit_lines(items: Sequence[Finding], known: Sequence[PublishedEdit], store: Store) -> Iterator[EditLine]:
    """Yields the edits of editors and kinds that were published with such scores."""
    scores: dict[tuple[Block, str], dict[tuple[str, int], tuple[float | None, float | None]]] = {}
    for row in store.read("evaluations").to_pylist():
        if (row["split"], row["prompt_role"]) == ("report", "unrelated"):
            # A judge's word on several kinds is several rows of one picture.
            pictures = scores.setdefault(((row["model"], row["attribute"]), row["edit_id"]), {})
            pictures[row["prompt"], row["seed"]] = (row["clip_before"], row["clip_after"])
    for item in items:
        for edit in item.chosen:
            kind, editor = item.row["attribute"].partition("/")[0], edit.row["editor"]
            like = [one for one in known if (one.kind, one.editor) == (kind, editor)]
            if edit.row["targets"] == "published" and like:
                yield EditLine(
                    model=item.row["model"],
                    attribute=item.row["attribute"],
                    edit=edit.label,
                    published=f"{like[0].before:.2f} → {like[0].after:.2f} on {like[0].prompts}",
                    source=like[0].source,
                    measured=_spared(scores.get((item.block, edit.summary.edit_id), {})),
                )


def _spared(pictures: Mapping[tuple[str, int], tuple[float | None, float | None]]) -> str:
    """Mean scores before and after, and the paired change with its 95 % interval (prompts and seeds are crossed)."""
    scored = {key: (pair[0], pair[1]) for key, pair in pictures.items() if pair[0] is not None and pair[1] is not None}
    if not scored:
        return "no pictures"
    prompts, seeds = ({name: n for n, name in enumerate(dict.fromkeys(names))} for names in zip(*scored, strict=True))
    change, there = np.zeros((len(prompts), len(seeds), 1)), np.zeros((len(prompts), len(seeds), 1), dtype=bool)
    for (prompt, seed), (before, after) in scored.items():
        at = (prompts[prompt], seeds[seed])
        change[at], there[at] = 100 * (after - before), True
    means = crossed_means(change, there)
    before, after = (100 * float(np.mean([pair[i] for pair in scored.values()])) for i in (0, 1))
    count = f"{len(prompts)} prompt{'' if len(prompts) == 1 else 's'}"
    said = f"{before:.2f} → {after:.2f} on {len(scored)} pictures of {count} without the attribute"
    low, high = (float(side(0.5 + CONFIDENCE / 2)[0]) for side in (means.low, means.high))
    if np.isfinite([low, high]).all():
        said += f" (change [{low:+.2f}, {high:+.2f}])"
    lost = len(pictures) - len(scored)
    return f"{said}; {lost} more have no score" if lost else said
