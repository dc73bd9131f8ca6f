"""What a finding's card shows: its verdict, its drawings, and each chosen edit above what it is held against."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import urlencode

from orchestrator.reporting.findings import Block, Finding, Findings, MeasuredEdit
from orchestrator.reporting.metrics import Key, MetricTable, metric_table
from orchestrator.reporting.profile import Profile, profile
from orchestrator.reporting.triangle import Triangle, triangle
from orchestrator.reporting.verdicts import State, badge, place, state, verdict
from orchestrator.reporting.windows import WindowEffect, windows_by_block
from orchestrator.stages.edit.comparison import BaselineComparison
from orchestrator.stages.edit.summary import Share

SHARES = {
    "flipped": "flipped", "paraphrased": "reworded", "neighbours_kept": "neighbours", "unrelated_kept": "unrelated",
    "content_kept": "content",
}  # fmt: skip
"""Columns of a table of edits, by the field of their summary."""
_STANDING = {
    "better": "edit more specific", "worse": "edit less specific", "unrivalled": "less effective",
    "without effect": "edit flips nothing",
}  # fmt: skip


@dataclass(frozen=True)
class EditRow:
    """A line of the small table of edits.

    Attributes:
        label: the edit, or what it is held against.
        scope: its scope.
        shares: what it did, in the order of `SHARES`.
        chosen: whether it is the edit itself.
        standing: how the edit compares with it, in two words; empty of the edit itself.
        sentence: the same in full.
        key: key of the edit whose shares these are.
    """

    label: str
    scope: str
    shares: tuple[Share, ...]
    chosen: bool
    standing: str = ""
    sentence: str = ""
    key: Key = ("", "", "")


@dataclass(frozen=True)
class Card:
    """What stands on one card beside pictures.

    Attributes:
        finding: the finding.
        state: what it counts as.
        badge: outcome in few words.
        verdict: what was found, in a line.
        place: the window that it speaks of, and as what.
        profile: bars of the windows of one size.
        triangle: all windows; None without any.
        windows: number of windows.
        edits: lines of the table of edits.
        metrics: what metrics say of these edits; None where they say nothing.
    """

    finding: Finding
    state: State
    badge: str
    verdict: str
    place: str
    profile: Profile
    triangle: Triangle | None
    windows: int
    edits: tuple[EditRow, ...]
    metrics: MetricTable | None

    @property
    def block(self) -> Block:
        """Model and attribute."""
        return self.finding.block

    def address(self, tab: str = "") -> str:
        """Returns the address of the finding in one of the page's tabs; the first where none is named."""
        model, attribute = self.block
        query = {"model": model, "attribute": attribute}
        return "#" + urlencode({"tab": tab, **query} if tab else query)


def cards(findings: Findings) -> list[Card]:
    """Returns a card per finding, in their order."""
    windows = windows_by_block(findings)
    return [_card(item, findings, windows.get(item.block, ())) for item in findings.items]


def _card(item: Finding, findings: Findings, windows: Sequence[WindowEffect]) -> Card:
    row, names = item.row, findings.sites[item.block[0]]
    threshold = row["threshold"] or findings.spec.localize.threshold
    edits = tuple(line for edit in item.chosen for line in _edit_rows(edit, item.edits))
    return Card(
        finding=item,
        state=state(row),
        badge=badge(row),
        verdict=verdict(row, findings.words),
        place=place(row),
        profile=profile(row, names, windows, threshold, place(row)),
        triangle=triangle(row, len(names), windows, threshold) if windows else None,
        windows=len(windows),
        edits=edits,
        metrics=metric_table([line.key for line in edits], findings.metrics),
    )


def _edit_rows(edit: MeasuredEdit, others: Sequence[MeasuredEdit]) -> list[EditRow]:
    lines = [EditRow(edit.label, edit.summary.scope, _shares(edit), chosen=True, key=_key(edit))]
    for comparison in edit.comparisons:
        rivals = [other for other in others if _is_rival(other, edit, comparison)]
        if not rivals:
            continue
        strongest = max(rivals, key=lambda each: (each.summary.flipped.value, each.summary.neighbours_kept.value))
        label = comparison.rival
        if len(rivals) > 1:
            label += f" (of {len(rivals)} the one that flips most)"
        standing = _STANDING.get(comparison.standing, comparison.standing)
        shares = _shares(strongest)
        sentence, key = comparison.sentence, _key(strongest)
        lines.append(EditRow(label, strongest.summary.scope, shares, False, standing, sentence, key))
    return lines


def _key(edit: MeasuredEdit) -> Key:
    return edit.summary.edit_id, edit.summary.scope, edit.summary.attribute


def _is_rival(other: MeasuredEdit, edit: MeasuredEdit, comparison: BaselineComparison) -> bool:
    mine, theirs = edit.summary, other.summary
    if theirs.scope == "method" and mine.scope != "method":
        return theirs.chosen and theirs.name == comparison.against
    return (theirs.scope, theirs.name, theirs.localization) == (comparison.against, mine.name, mine.localization)


def _shares(edit: MeasuredEdit) -> tuple[Share, ...]:
    return tuple(getattr(edit.summary, name) for name in SHARES)


def counted(found: Sequence[Card]) -> Mapping[str, int]:
    """Returns how many findings there are of each state."""
    return {name: sum(card.state == name for card in found) for name in ("localized", "picked", "open")}
