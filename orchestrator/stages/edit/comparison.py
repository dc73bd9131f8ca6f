"""Whether an edit at the localized sites is worth more than its rivals: specificity at equal efficacy."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from loco_core.editing.base import info_of_results
from orchestrator.stages.edit.plan import CANDIDATES
from orchestrator.stages.edit.summary import CONFIDENCE, EditSummary, Share

Standing = Literal["better", "worse", "not told apart", "unrivalled", "without effect", "not measured"]
Difference = tuple[float, float, float]
SPARED = {
    "the neighbours' pictures": "neighbours_kept",
    "unrelated pictures": "unrelated_kept",
    "the content of its own pictures": "content_kept",
}


@dataclass(frozen=True)
class BaselineComparison:
    """A chosen edit beside all baselines of one scope, or beside a published method that edits a place of its own.

    Attributes:
        edit_id: the chosen edit.
        editor: name of its editor.
        against: scope of the baselines, or name of the method.
        baselines: how many there are.
        as_effective: those that are not shown to flip fewer pictures than the edit does.
        standing: ``without effect`` where the edit flips nothing; ``unrivalled`` where no baseline is as effective;
            else how the edit's specificity compares with the most specific of them: ``better`` or ``worse`` where the
            interval of the difference leaves out 0.
        rival: what that is, in words.
        spared: what specificity is the share of: pictures of neighbours, of unrelated prompts, or the other content of
            the edit's own pictures; the first of these that was measured.
        difference: specificity of the edit less the rival's, with an interval that holds for all rivals together at
            95 %; None where there is none to compare with.
    """

    edit_id: str
    editor: str
    against: str
    rival: str
    baselines: int
    as_effective: int
    standing: Standing
    spared: str
    difference: tuple[float, float, float] | None

    @property
    def sentence(self) -> str:
        """Says it in words."""
        rival = self.rival
        if self.standing == "not measured":
            return f"Against {rival}: not measured; no pictures tell what either spares, or whether it works."
        if self.standing == "without effect":
            return f"Against {rival}: not compared; the edit itself flips nothing."
        if self.difference is None:
            many = f"None of the {self.baselines} reaches" if self.baselines > 1 else "It does not reach"
            return f"Against {rival}: unrivalled. {many} its efficacy."
        value, low, high = (100 * part for part in self.difference)
        word = {"better": "more specific", "worse": "less specific"}.get(self.standing, "not told apart")
        return (
            f"Against {rival}: {word} at equal efficacy"
            f" ({value:+.0f} points of {self.spared} kept, {low:+.0f} to {high:+.0f};"
            f" {self.as_effective} of {self.baselines} not shown to be less effective)."
        )


def comparisons(edit: EditSummary, others: Iterable[EditSummary]) -> list[BaselineComparison]:
    """Holds a chosen edit against its baselines, scope by scope: of the same editor at the same place.

    One at a window is held against the chosen edits of published methods too, method by method.

    Args:
        edit: the chosen edit.
        others: every edit that was measured on the same split.
    """
    found = []
    others = list(others)
    alike = [item for item in others if _place(item) == _place(edit)]
    known = {item.scope: item.words for item in info_of_results(edit.editor).baselines}
    for scope in dict.fromkeys([*known, *(item.scope for item in alike)]):
        rivals = [item for item in alike if item.scope == scope]
        if rivals and scope not in CANDIDATES:
            found.append(_compared(edit, scope, known.get(scope, f'its baseline "{scope}"'), rivals))
    if edit.scope != "method":
        block = edit.model, edit.attribute
        methods = [item for item in others if item.scope == "method" and (item.model, item.attribute) == block]
        found += [
            _compared(edit, item.name, f"{item.name}, which edits a place of its own", [item])
            for item in methods
            if item.chosen
        ]
    return found


def _place(edit: EditSummary) -> tuple[str, str, str, str]:
    return edit.model, edit.attribute, edit.name, edit.localization


def _compared(edit: EditSummary, scope: str, words: str, rivals: Sequence[EditSummary]) -> BaselineComparison:
    def said(
        standing: Standing, effective: int, spared: str = "", found: Difference | None = None
    ) -> BaselineComparison:
        return BaselineComparison(
            edit.edit_id, edit.name, scope, words, len(rivals), effective, standing, spared, found
        )

    # The same pictures for both: shares of different prompts say more about the prompts than about the edits.
    measured = [item for item in rivals if edit.flipped.pictures.keys() & item.flipped.pictures.keys()]
    if not measured:
        return said("not measured", 0)
    if not edit.flipped.hits:
        return said("without effect", 0)
    effective = [item for item in measured if difference(edit.flipped, item.flipped, len(measured))[1] <= 0]
    if not effective:
        return said("unrivalled", 0)
    spared = next((name for name in SPARED if all(_common(edit, item, name) for item in effective)), None)
    if spared is None:
        return said("not measured", len(effective))
    mine = getattr(edit, SPARED[spared])
    apart = [difference(mine, getattr(item, SPARED[spared]), len(effective)) for item in effective]
    value, low, high = min(apart)
    standing: Standing = "better" if low > 0 else "worse" if high < 0 else "not told apart"
    return said(standing, len(effective), spared, (value, low, high))


def _common(edit: EditSummary, other: EditSummary, spared: str) -> bool:
    mine, theirs = (getattr(item, SPARED[spared]).pictures.keys() for item in (edit, other))
    return bool(mine & theirs)


def difference(a: Share, b: Share, comparisons: int = 1) -> Difference:
    """Returns ``a - b`` on the pictures that both have, with its interval.

    From the two Wilson intervals (Newcombe 1998, method 10), which takes the shares for independent: that the same
    pictures are compared makes it wider than it need be, never narrower.

    Args:
        a: one share.
        b: the other.
        comparisons: how many intervals are to hold together at 95 % (Bonferroni).
    """
    both, confidence = a.pictures.keys() & b.pictures.keys(), 1 - (1 - CONFIDENCE) / comparisons
    one, two = (side.among(sorted(both), confidence) for side in (a, b))
    value = one.value - two.value
    low = value - ((one.value - one.low) ** 2 + (two.high - two.value) ** 2) ** 0.5
    high = value + ((one.high - one.value) ** 2 + (two.value - two.low) ** 2) ** 0.5
    return value, low, high
