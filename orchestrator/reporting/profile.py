"""The effects of the windows of one size as bars over the sites of the model, drawn as SVG."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from orchestrator.reporting.denoiser import Drawing, draw
from orchestrator.reporting.findings import sites
from orchestrator.reporting.windows import WindowEffect

LEFT, RIGHT, TOP, PLOT, GAP, FOOT = 46, 8, 8, 104, 12, 16
"""Pixels: labels on the left, edges, the bars, room between them and the sites, and the labels below these."""
LOWEST, HIGHEST = -0.1, 1.15
"""Effects that are drawn; what lies beyond is cut there."""
WIDTH = 560
NARROWEST, WIDEST = 8, 30
"""Pixels from one site to the next."""
MANY = 30
"""Sites from which on a phone's letters are enlarged."""


@dataclass(frozen=True)
class Bar:
    """One window.

    Attributes:
        x: left edge.
        y: upper edge.
        width: pixels.
        height: pixels.
        words: sites, effect and interval.
        marked: whether it is the window that the finding speaks of.
    """

    x: float
    y: float
    width: float
    height: float
    words: str
    marked: bool


@dataclass(frozen=True)
class Profile:
    """Bars over sites.

    Attributes:
        width: pixels.
        height: pixels.
        bars: one per window with an effect.
        whiskers: path of the intervals.
        bounds: path of the lower bounds that hold for all windows together.
        levels: heights of the effects that have a label, with it and whether it is the threshold.
        below: where the drawing of the sites begins.
        drawing: the sites.
        marked: sites of the window that the finding speaks of.
        size: number of sites of the windows; 0 without any.
        words: what is drawn, for who cannot see it.
    """

    width: float
    height: float
    bars: tuple[Bar, ...]
    whiskers: str
    bounds: str
    levels: tuple[tuple[float, str, bool], ...]
    below: float
    drawing: Drawing
    marked: range
    size: int
    words: str

    @property
    def left(self) -> int:
        """Where the first site begins."""
        return LEFT

    @property
    def right(self) -> float:
        """Where the last site ends."""
        return self.width - RIGHT

    @property
    def wide(self) -> bool:
        """Whether it has so many sites that letters shrink on a phone."""
        return len(self.drawing.sites) > MANY


def profile(
    row: Mapping[str, Any], names: Sequence[str], windows: Sequence[WindowEffect], threshold: float, place: str
) -> Profile:
    """Draws the windows of the size that a finding speaks of.

    Args:
        row: its row of ``localizations``.
        names: addresses of the model's sites.
        windows: what its windows do.
        threshold: effect that a window must reach.
        place: what the window is that the finding speaks of, such as "localized: sites 12–13".
    """
    step = max(NARROWEST, min(WIDEST, (WIDTH - LEFT - RIGHT) / max(len(names), 1)))
    drawing, size = draw(names, step), row["best_size"] or row["window_size"]
    known = [window for window in windows if window.effect is not None]
    if known and size not in {window.size for window in known}:
        size = known[0].size
    known = [window for window in known if window.size == size]
    start = row["best_start"] if row["window_start"] is None else row["window_start"]
    marked = range(0) if start is None or not row["best_size"] else range(start, start + row["best_size"])
    if row["window_start"] is not None:
        marked = range(row["window_start"], row["window_start"] + row["window_size"])
    below = TOP + PLOT + GAP if known else TOP
    levels = ((0.0, "0", False), (1.0, "100 %", False), (threshold, f"{100 * threshold:g} %", True))
    kept = [level for level in levels if level[2] or abs(level[0] - threshold) > 0.12]
    return Profile(
        width=LEFT + step * len(names) + RIGHT,
        height=below + drawing.height + FOOT,
        bars=tuple(_bar(window, step, marked) for window in known),
        whiskers="".join(_whisker(window, step) for window in known),
        bounds="".join(_bound(window, step) for window in known),
        levels=tuple((_y(value), text, is_threshold) for value, text, is_threshold in kept) if known else (),
        below=below,
        drawing=drawing,
        marked=marked,
        size=size if known else 0,
        words=_words(row, known, len(names), threshold, place),
    )


def _words(row: Mapping[str, Any], windows: Sequence[WindowEffect], n_sites: int, threshold: float, place: str) -> str:
    where = f"{n_sites} cross-attention sites of {row['model']}; {place}"
    if not windows:
        return where
    most = max(windows, key=lambda window: window.effect or 0.0)
    each = sites(most.start, most.size).partition(" ")[0]
    return (
        f"{where}. Effects of {len(windows)} windows of {most.size}, the largest at {each} {most.words}; "
        f"the threshold is {100 * threshold:g} %."
    )


def _y(effect: float) -> float:
    return TOP + PLOT * (HIGHEST - min(max(effect, LOWEST), HIGHEST)) / (HIGHEST - LOWEST)


def _middle(window: WindowEffect, step: float) -> float:
    return LEFT + step * (window.start + window.size / 2)


def _bar(window: WindowEffect, step: float, marked: range) -> Bar:
    zero, end = _y(0.0), _y(window.effect or 0.0)
    width, height = step * 0.72, max(1.0, abs(zero - end))
    left = _middle(window, step) - width / 2
    is_marked = (window.start, window.start + window.size) == (marked.start, marked.stop)
    return Bar(round(left, 1), round(min(zero, end), 1), round(width, 1), round(height, 1), window.words, is_marked)


def _whisker(window: WindowEffect, step: float) -> str:
    if window.low is None or window.high is None:
        return ""
    return f"M{_middle(window, step):.1f} {_y(window.high):.1f}V{_y(window.low):.1f}"


def _bound(window: WindowEffect, step: float) -> str:
    """A short line; of bounds below what is drawn there is none."""
    if window.bound is None or window.bound < LOWEST:
        return ""
    width = round(step * 0.5, 1)
    return f"M{_middle(window, step) - width / 2:.1f} {_y(window.bound):.1f}h{width}"
