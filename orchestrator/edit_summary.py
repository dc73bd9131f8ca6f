"""What edits did and what they spared, edit by edit, with intervals: from ``edits`` and ``evaluations``."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from scipy.stats import binomtest


@dataclass(frozen=True)
class Share:
    """How many of how many, with the 95 % Wilson interval; all zero where there is nothing to count."""

    hits: int
    of: int
    low: float
    high: float

    @property
    def value(self) -> float:
        """The share itself."""
        return self.hits / self.of if self.of else 0.0


@dataclass(frozen=True)
class EditSummary:
    """One edit on one split.

    Attributes:
        sites: the sites that it changes.
        localization: what picked the place that it belongs to; of a baseline, that of the edit that it is held against.
        flipped: target pictures that had the attribute and have the donor's class now.
        paraphrased: the same on prompts of templates that no fit has seen.
        neighbours_kept: neighbours' pictures that had their own attribute and have it still.
        content_kept: of what else the judge saw right in the target pictures, what it still sees.
    """

    edit_id: str
    model: str
    attribute: str
    editor: str
    scope: str
    chosen: bool
    sites: tuple[int, ...]
    localization: str
    flipped: Share
    paraphrased: Share
    neighbours_kept: Share
    content_kept: Share


def share(hits: Iterable[bool]) -> Share:
    """Counts."""
    listed = [bool(hit) for hit in hits]
    if not listed:
        return Share(0, 0, 0.0, 0.0)
    bounds = binomtest(sum(listed), len(listed)).proportion_ci(method="wilson")
    return Share(sum(listed), len(listed), float(bounds.low), float(bounds.high))


def summarize(
    edits: Iterable[Mapping[str, Any]], evaluations: Iterable[Mapping[str, Any]], split: str = "report"
) -> list[EditSummary]:
    """Sums up the evaluations of every edit on one split.

    Args:
        edits: rows of ``edits``.
        evaluations: rows of ``evaluations``.
        split: ``report`` or ``select``.
    """
    by_edit: dict[tuple[str, str], list[Mapping[str, Any]]] = defaultdict(list)
    for row in evaluations:
        if row["split"] == split and row["status"] == "ok":
            by_edit[row["edit_id"], row["scope"]].append(row)
    return [
        _summary(edit, by_edit[edit["edit_id"], edit["scope"]])
        for edit in edits
        if by_edit.get((edit["edit_id"], edit["scope"]))
    ]


def _summary(edit: Mapping[str, Any], rows: list[Mapping[str, Any]]) -> EditSummary:
    kind = edit["attribute_kind"]
    own = [row for row in rows if row["judge_kind"] == kind and row["flipped"] is not None]
    other = [
        row
        for row in rows
        if row["judge_kind"] != kind and row["prompt_role"] == "target" and row["judge_before"] == row["judge_said"]
    ]

    def flips(role: str) -> Share:
        return share(row["flipped"] for row in own if row["prompt_role"] == role)

    return EditSummary(
        edit_id=edit["edit_id"],
        model=edit["model"],
        attribute=edit["attribute"],
        editor=edit["editor"],
        scope=edit["scope"],
        chosen=bool(edit["chosen"]),
        sites=tuple(edit["site_indices"]),
        localization=edit["localization"],
        flipped=flips("target"),
        paraphrased=flips("paraphrase"),
        neighbours_kept=share(
            row["judge_after"] == row["judge_said"] for row in own if row["prompt_role"] == "neighbour"
        ),
        content_kept=share(row["judge_after"] == row["judge_said"] for row in other),
    )
