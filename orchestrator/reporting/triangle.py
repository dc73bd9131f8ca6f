"""All windows of one finding as a triangle: a row per size, a column per first site, drawn as SVG."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from orchestrator.reporting.windows import WindowEffect

LEFT, TOP, ROW, FOOT = 44, 4, 20, 34
"""Pixels: labels on the left, upper edge, a row, and the labels below."""
WIDTH, NARROWEST, WIDEST = 900, 11, 30
BELOW, ABOVE = 8, 2
"""Colours below the threshold and from it on."""
UNKNOWN = "none"


@dataclass(frozen=True)
class Triangle:
    """One triangle.

    Attributes:
        step: pixels from one first site to the next.
        n_sites: number of sites of the model.
        sizes: window sizes, from top to bottom.
        cells: path of the cells of each colour, by its number; `UNKNOWN` are those without an effect.
        outline: left edge, upper edge and width of the window that the finding speaks of; None without one.
        picked: whether that was picked; else it is the best candidate.
    """

    step: int
    n_sites: int
    sizes: tuple[int, ...]
    cells: Mapping[int | str, str]
    outline: tuple[int, int, int] | None
    picked: bool

    left, top, row = LEFT, TOP, ROW

    @property
    def width(self) -> int:
        """Pixels."""
        return LEFT + self.step * self.n_sites + 10

    @property
    def height(self) -> int:
        """Pixels."""
        return TOP + ROW * len(self.sizes) + FOOT

    @property
    def ticks(self) -> range:
        """First sites that have a label."""
        return range(0, self.n_sites, 1 if self.step >= 20 else 5)


def edges(threshold: float) -> list[float]:
    """Returns where one colour ends and the next begins: the threshold is one of these places."""
    above = [threshold, (1 + threshold) / 2] if threshold < 1 else [threshold]
    return [threshold * i / BELOW for i in range(1, BELOW)] + above


def colours(threshold: float) -> list[tuple[float, float, int]]:
    """Returns from where to where each colour goes, with its number, for the scale."""
    ends = [0.0, *edges(threshold), max(1.0, threshold)]
    return [(low, high, number) for number, (low, high) in enumerate(pairwise(ends)) if high > low]


def triangle(row: Mapping[str, Any], n_sites: int, windows: Sequence[WindowEffect], threshold: float) -> Triangle:
    """Draws the windows of a finding.

    Args:
        row: its row of ``localizations``.
        n_sites: number of sites of its model.
        windows: what its windows do.
        threshold: effect that a window must reach.
    """
    step = max(NARROWEST, min(WIDEST, (WIDTH - LEFT) // max(n_sites, 1)))
    sizes = tuple(sorted({window.size for window in windows}))
    row_of, ends = {size: number for number, size in enumerate(sizes)}, edges(threshold)
    cells: dict[int | str, list[str]] = {}
    for window in windows:
        colour = UNKNOWN if window.effect is None else sum(window.effect >= end for end in ends)
        x, y = LEFT + step * window.start, TOP + ROW * row_of[window.size] + ROW // 2
        # A thick line per cell is a third of the letters of a rectangle.
        cells.setdefault(colour, []).append(f"M{x} {y}h{step - 1}")
    which = "best" if row["window_start"] is None else "window"
    start, size = row[f"{which}_start"], row[f"{which}_size"]
    outline = (LEFT + step * start, TOP + ROW * row_of[size], step) if start is not None and size in row_of else None
    return Triangle(
        step, n_sites, sizes, {colour: "".join(paths) for colour, paths in cells.items()}, outline, which == "window"
    )
