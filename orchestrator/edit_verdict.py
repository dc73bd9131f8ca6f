"""Whether an edit at the localized sites is worth more than its baselines: specificity at equal efficacy."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from orchestrator.edit_summary import EditSummary, Share

Standing = Literal["better", "worse", "not told apart", "unrivalled"]
RIVALS = {
    "all_sites": "the same edit at all sites",
    "window": "the same edit at a window elsewhere",
    "placebo": "a placebo of equal norm",
    "random": "as many neurons drawn at random",
}


@dataclass(frozen=True)
class Verdict:
    """A chosen edit beside all baselines of one scope.

    Attributes:
        edit_id: the chosen edit.
        editor: its editor.
        against: scope of the baselines.
        baselines: how many there are.
        as_effective: those whose share of flipped pictures has an upper bound that reaches the edit's own share.
        standing: ``unrivalled`` where none is as effective; else how the edit's specificity compares with the most
            specific of those that are: ``better`` or ``worse`` where the interval of the difference leaves out 0.
        difference: specificity of the edit less the rival's, with a 95 % interval; None where unrivalled.
    """

    edit_id: str
    editor: str
    against: str
    baselines: int
    as_effective: int
    standing: Standing
    difference: tuple[float, float, float] | None

    @property
    def sentence(self) -> str:
        """Says it in words."""
        rival = RIVALS[self.against]
        if self.difference is None:
            many = f"None of {self.baselines} does" if self.baselines > 1 else "It does not"
            return f"Against {rival}: unrivalled. {many} reach its efficacy."
        value, low, high = (100 * part for part in self.difference)
        verdict = {"better": "more specific", "worse": "less specific"}.get(self.standing, "not told apart")
        return (
            f"Against {rival}: {verdict} at equal efficacy"
            f" ({value:+.0f} points of what is kept, {low:+.0f} to {high:+.0f};"
            f" {self.as_effective} of {self.baselines} as effective)."
        )


def specificity(edit: EditSummary) -> Share:
    """Returns what an edit spares: its neighbours, or the other content of its own pictures where it has none."""
    return edit.neighbours_kept if edit.neighbours_kept.of else edit.content_kept


def verdicts(edit: EditSummary, others: Iterable[EditSummary]) -> list[Verdict]:
    """Holds a chosen edit against its baselines, scope by scope: of the same editor at the same place.

    Args:
        edit: the chosen edit.
        others: every edit that was measured on the same split.
    """
    found = []
    alike = [item for item in others if _place(item) == _place(edit)]
    for scope in RIVALS:
        rivals = [item for item in alike if item.scope == scope]
        if rivals:
            found.append(_verdict(edit, scope, rivals))
    return found


def _place(edit: EditSummary) -> tuple[str, str, str, str]:
    return edit.model, edit.attribute, edit.editor, edit.localization


def _verdict(edit: EditSummary, scope: str, rivals: Sequence[EditSummary]) -> Verdict:
    effective = [item for item in rivals if item.flipped.high >= edit.flipped.value]
    if not effective:
        return Verdict(edit.edit_id, edit.editor, scope, len(rivals), 0, "unrivalled", None)
    best = max(effective, key=lambda item: specificity(item).value)
    value, low, high = difference(specificity(edit), specificity(best))
    standing: Standing = "better" if low > 0 else "worse" if high < 0 else "not told apart"
    return Verdict(edit.edit_id, edit.editor, scope, len(rivals), len(effective), standing, (value, low, high))


def difference(a: Share, b: Share) -> tuple[float, float, float]:
    """Returns ``a - b`` with its 95 % interval (Newcombe 1998, method 10: from the two Wilson intervals)."""
    value = a.value - b.value
    low = value - ((a.value - a.low) ** 2 + (b.high - b.value) ** 2) ** 0.5
    high = value + ((a.high - a.value) ** 2 + (b.value - b.low) ** 2) ** 0.5
    return value, low, high
