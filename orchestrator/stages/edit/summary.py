"""What edits did and what they spared, edit by edit, with intervals: from ``edits`` and ``evaluations``."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from loco_core.editing.base import named
from loco_core.statistics import crossed_means, wilson_interval
from orchestrator.stages.edit.plan import INVALID, UNKNOWN

Picture = tuple[str, int]
"""What tells pictures of one role apart: prompt with the text that scores it, and seed."""
CONFIDENCE = 0.95
_SEEN = ("prompt_role", "prompt", "clip_text", "seed", "judge", "judge_kind")
"""Columns that tell apart what was seen of one edit."""


@dataclass(frozen=True)
class Share:
    """How many of how many pictures, with a Wilson interval; all zero where there is nothing to count.

    Pictures of one prompt, and of one seed, are alike: the interval is that of as many independent pictures as their
    crossed variance says they are worth (Kish's design effect).

    Attributes:
        hits: how many.
        of: of how many.
        low: lower end of the interval.
        high: upper end.
        pictures: which.
    """

    hits: int
    of: int
    low: float
    high: float
    pictures: Mapping[Picture, bool] = field(default_factory=dict, repr=False, compare=False)

    @property
    def value(self) -> float:
        """The share itself."""
        return self.hits / self.of if self.of else 0.0

    def among(self, pictures: Iterable[Picture], confidence: float = CONFIDENCE) -> Share:
        """Returns the same share of some of the pictures."""
        return share({picture: self.pictures[picture] for picture in pictures}, confidence)


@dataclass(frozen=True)
class EditSummary:
    """One edit on one split.

    Attributes:
        targets: what its editor was fitted on: ``published`` texts or ``paired`` prompts; None where it knows one way.
        sites: the sites that it changes; none where it changes a text encoder.
        localization: what picked the place that it belongs to; of a baseline, that of the edit that it is held against.
        flipped: target pictures that had the attribute and have the donor's class now.
        paraphrased: the same on prompts of templates that no fit has seen.
        neighbours_kept: neighbours' pictures that had their own attribute and have it still.
        unrelated_kept: pictures of unrelated prompts that showed what these say and show it still.
        content_kept: target pictures that keep all that they showed beside the attribute.
        ceiling: pictures of the donor prompts themselves, without an edit, that show the donor's class: no edit can be
            expected to flip more.
        attributes: all attributes that the edit is of, where these are several; this is about one of them.
        step: of edits one after the other, how many of them were made; None of others.
    """

    edit_id: str
    model: str
    attribute: str
    editor: str
    targets: str | None
    scope: str
    chosen: bool
    sites: tuple[int, ...]
    localization: str
    flipped: Share
    paraphrased: Share
    neighbours_kept: Share
    unrelated_kept: Share
    content_kept: Share
    ceiling: Share
    attributes: tuple[str, ...] = ()
    step: int | None = None

    @property
    def name(self) -> str:
        """The editor in words, with its targets: "loco_edit, as published"."""
        return named(self.editor, self.targets)

    @property
    def others(self) -> tuple[str, ...]:
        """The other attributes that it is of."""
        return tuple(name for name in self.attributes if name != self.attribute)


def share(pictures: Mapping[Picture, bool], confidence: float = CONFIDENCE) -> Share:
    """Counts.

    Args:
        pictures: whether each counts.
        confidence: of the interval.
    """
    if not pictures:
        return Share(0, 0, 0.0, 0.0)
    hits, of = sum(pictures.values()), len(pictures)
    low, high = wilson_interval(hits / of, of / _design_effect(pictures), confidence)
    return Share(hits, of, low, high, pictures)


def _design_effect(pictures: Mapping[Picture, bool]) -> float:
    """Returns how many times as uncertain the mean is as that of independent pictures; at least 1."""
    prompts, seeds = ({name: n for n, name in enumerate(dict.fromkeys(names))} for names in zip(*pictures, strict=True))
    values, present = np.zeros((len(prompts), len(seeds), 1)), np.zeros((len(prompts), len(seeds), 1), dtype=bool)
    for (prompt, seed), hit in pictures.items():
        values[prompts[prompt], seeds[seed]], present[prompts[prompt], seeds[seed]] = hit, True
    mean = sum(pictures.values()) / len(pictures)
    alone = mean * (1 - mean) / max(1, len(pictures) - 1)
    crossed = float(crossed_means(values, present).error[0]) ** 2
    return max(1.0, crossed / alone) if alone > 0 and np.isfinite(crossed) else 1.0


def summarize(
    edits: Iterable[Mapping[str, Any]],
    evaluations: Iterable[Mapping[str, Any]],
    split: str = "report",
    judge: str | None = None,
) -> list[EditSummary]:
    """Sums up the evaluations of every edit on one split.

    A picture that was none without the edit says nothing of it; one that the edit destroyed counts against it. Where
    some were seen by a judge and some judged by the sign of the CLIP margin, the judge's word counts alone; of several
    judges that of the one that is named. Of a picture that was measured twice, since its margin is taken against other
    texts now, the last row counts.

    Args:
        edits: rows of ``edits``.
        evaluations: rows of ``evaluations``.
        split: ``report`` or ``select``.
        judge: the judge whose word counts where it has seen an edit; None takes that of any.
    """
    by_edit: dict[tuple[str, str, str], dict[tuple[Any, ...], Mapping[str, Any]]] = defaultdict(dict)
    for row in evaluations:
        if row["split"] == split:
            seen = tuple(row[name] for name in _SEEN)
            by_edit[row["edit_id"], row["scope"], row["attribute"]][seen] = row
    found = []
    for edit in edits:
        listed = by_edit.get((edit["edit_id"], edit["scope"], edit["attribute"]), {})
        rows = [row for row in listed.values() if row["judge_before"] != INVALID]
        named = [row for row in rows if row["judge"] == judge] if judge is not None else []
        judged = named or [row for row in rows if row["judge"] is not None] or rows
        if judged:
            found.append(_summary(edit, judged))
    return found


def neighbour_loss(item: EditSummary) -> float:
    """Returns the share of the neighbours' pictures that an edit spoiled; 0 where none is watched."""
    return 1 - item.neighbours_kept.value if item.neighbours_kept.of else 0.0


def _summary(edit: Mapping[str, Any], rows: list[Mapping[str, Any]]) -> EditSummary:
    own = [row for row in rows if row["judge_kind"] == edit["attribute_kind"]]
    # Without a judge an unrelated prompt is judged as its content against the attribute.
    beside = [row for row in rows if row["judge_kind"] != edit["attribute_kind"] or row["judge"] is None]
    # An earlier version took all donors for unrelated.
    donors = {row["prompt"] for row in rows if row["prompt_role"] == "donor"}
    return EditSummary(
        edit_id=edit["edit_id"],
        model=edit["model"],
        attribute=edit["attribute"],
        editor=edit["editor"],
        targets=edit["targets"],
        scope=edit["scope"],
        chosen=bool(edit["chosen"]),
        sites=tuple(edit["site_indices"]),
        localization=edit["localization"],
        flipped=_flipped(own, "target"),
        paraphrased=_flipped(own, "paraphrase"),
        neighbours_kept=_kept(own, "neighbour"),
        unrelated_kept=_kept([row for row in beside if row["prompt"] not in donors], "unrelated"),
        content_kept=_kept([row for row in beside if row["judge"] is not None], "target"),
        ceiling=_ceiling([row for row in own if row["judge"] is not None]),
        attributes=tuple(edit.get("attributes") or ()),
        step=edit.get("step"),
    )


def _picture(row: Mapping[str, Any]) -> Picture:
    return f"{row['prompt']}\n{row['clip_text']}", row["seed"]


def _flipped(rows: Iterable[Mapping[str, Any]], role: str) -> Share:
    return share({_picture(r): r["flipped"] for r in rows if r["prompt_role"] == role and r["flipped"] is not None})


def _ceiling(rows: Sequence[Mapping[str, Any]]) -> Share:
    """Counts donor prompts' pictures that show the donor's class: what they name, or else any but the attribute's."""
    attribute = {row["judge_said"] for row in rows if row["prompt_role"] == "target"}
    # Where donors leave the attribute out they are what is unrelated to it.
    role = "donor" if any(row["prompt_role"] == "donor" for row in rows) else "unrelated"
    return share(
        {
            _picture(row): row["judge_before"] == row["judge_said"]
            if row["judge_said"] is not None
            else row["judge_before"] not in {*attribute, *UNKNOWN}
            for row in rows
            if row["prompt_role"] == role
        }
    )


def _kept(rows: Iterable[Mapping[str, Any]], role: str) -> Share:
    """Counts pictures that still show all that they showed of what their prompt says."""
    kept: dict[Picture, bool] = {}
    for row in rows:
        if row["prompt_role"] == role and row["judge_before"] == row["judge_said"]:
            still = row["judge_after"] == row["judge_said"]
            kept[_picture(row)] = kept.get(_picture(row), True) and still
    return share(kept)
