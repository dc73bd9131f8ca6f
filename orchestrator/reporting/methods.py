"""What other localizers say of an attribute, beside the one that edits follow."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from loco_core.localization.base import in_words
from loco_core.types import Window

Key = tuple[str, str, str]  # model, attribute, localizer


@dataclass(frozen=True)
class MethodLine:
    """A line of the table that compares methods.

    Attributes:
        row: row of ``localizations``.
        share: its effect with the interval, in words; a dash without one.
        rank: rank of the found window among those of its size by this method's effects, 1 the largest; None where it
            has none of that window.
        ranked: number of those windows.
    """

    row: Mapping[str, Any]
    share: str
    rank: int | None
    ranked: int


@dataclass(frozen=True)
class Comparison:
    """What several methods say of one attribute.

    Attributes:
        window: window that the main localizer found, or came nearest to; None where it names none.
        lines: the main one first.
    """

    window: Window | None
    lines: tuple[MethodLine, ...]


def effects_by_window(rows: Iterable[Mapping[str, Any]]) -> dict[Key, dict[Window, float]]:
    """Returns the effects on windows of sites, by model, attribute and localizer; those of text encoders are none."""
    found: dict[Key, dict[Window, float]] = {}
    for row in rows:
        if row["component"] in (None, "denoiser") and row["effect"] is not None:
            mine = found.setdefault((row["model"], row["attribute"], row["localizer"]), {})
            mine[Window(row["window_start"], row["window_size"])] = row["effect"]
    return found


def compare(
    main: Mapping[str, Any], beside: Sequence[Mapping[str, Any]], effects: Mapping[Key, Mapping[Window, float]]
) -> Comparison | None:
    """Compares methods on one attribute.

    Args:
        main: row of ``localizations`` of the localizer that edits follow.
        beside: rows of the others.
        effects: effects by window, from `effects_by_window`.

    Returns:
        None without others.
    """
    if not beside:
        return None
    window = None
    if main["best_start"] is not None and main["best_size"] is not None:
        window = Window(main["best_start"], main["best_size"])
    lines = []
    for row in (main, *beside):
        rank, ranked = _rank(window, effects.get((row["model"], row["attribute"], row["localizer"]), {}))
        lines.append(MethodLine(row, _share(row), rank, ranked))
    return Comparison(window, tuple(lines))


def _rank(window: Window | None, effects: Mapping[Window, float]) -> tuple[int | None, int]:
    if window is None:
        return None, 0
    alike = {other: value for other, value in effects.items() if other.size == window.size}
    if not alike:
        # Methods that speak of single sites: a window has what its sites have together.
        starts = (start for start in range(1 + max((w.start for w in effects), default=-1)))
        whole = (Window(start, window.size) for start in starts)
        alike = {w: sum(effects[Window(s, 1)] for s in w.sites) for w in whole if _covered(w, effects)}
    if window not in alike:
        return None, len(alike)
    return 1 + sum(value > alike[window] for value in alike.values()), len(alike)


def _covered(window: Window, effects: Mapping[Window, float]) -> bool:
    return all(Window(site, 1) in effects for site in window.sites)


def _share(row: Mapping[str, Any]) -> str:
    if row["effect"] is None:
        return "–"
    interval = ""
    if row["ci_low"] is not None and row["ci_high"] is not None:
        interval = f" [{row['ci_low']:.0%}, {row['ci_high']:.0%}]"
    return f"{row['effect']:.0%}{interval} {in_words(row['localizer'], 'SHARE')}".strip()
