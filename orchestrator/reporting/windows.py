"""What the windows of each finding do: rows of ``effects``, sorted by model and attribute."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from orchestrator.reporting.findings import Block, Findings, span


@dataclass(frozen=True)
class WindowEffect:
    """What one window does.

    Attributes:
        start: its first site.
        size: number of its sites.
        effect: share of the full effect; None where there is none to take a share of.
        low: lower end of the window's own interval.
        high: upper end.
        bound: lower bound that holds for all windows together, the one that is held against the threshold.
    """

    start: int
    size: int
    effect: float | None
    low: float | None
    high: float | None
    bound: float | None

    @property
    def words(self) -> str:
        """Sites, effect and interval in words."""
        return f"{span(self.start, self.size)}: {effect_words(self.effect, self.low, self.high)}"


def effect_words(effect: float | None, low: float | None, high: float | None) -> str:
    """Says an effect with its interval, in percent."""
    if effect is None:
        return "no effect to measure"
    interval = "" if low is None or high is None else f" [{100 * low:.0f}, {100 * high:.0f}]"
    return f"{100 * effect:.0f} %{interval}"


def windows_by_block(findings: Findings) -> Mapping[Block, Sequence[WindowEffect]]:
    """Returns the windows of every model and attribute, by size and start."""
    names = ("window_start", "window_size", "effect", "ci_low", "ci_high", "simultaneous_low")
    columns = findings.effects
    found: dict[Block, list[WindowEffect]] = {}
    for model, attribute, *row in zip(
        columns["model"], columns["attribute"], *(columns[name] for name in names), strict=True
    ):
        found.setdefault((model, attribute), []).append(WindowEffect(*row))
    return {block: sorted(rows, key=lambda row: (row.size, row.start)) for block, rows in found.items()}
