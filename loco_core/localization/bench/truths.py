"""Kinds of truth that a table may have, and what swapping every window then does to the attribute."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from loco_core.localization.base import Outcome
from loco_core.statistics import Floats
from loco_core.types import Window


@dataclass(frozen=True)
class Layout:
    """Which windows of which model are simulated.

    Attributes:
        sites: number of sites of the model.
        largest: all sizes from 1 to this one are swept.
    """

    sites: int = 16
    largest: int = 4

    @property
    def windows(self) -> tuple[Window, ...]:
        """All windows, by size and start."""
        sizes = range(1, self.largest + 1)
        return tuple(Window(start, size) for size in sizes for start in range(self.sites - size + 1))


LAYOUTS = {16: Layout(), 70: Layout(70, 8)}
"""By number of sites: Stable Diffusion 1 and 2, Stable Diffusion XL."""
SITES, WINDOWS = Layout().sites, Layout().windows
KINDS = (
    "single",
    "all_at_0.70",
    "all_at_0.79",
    "two_disjoint",
    "redundant",
    "distributed",
    "graded",
    "damaging",
    "absent",
    "no_effect",
)
REACHED = 0.95
"""True effect of a window that holds all that must be swapped."""
_UNRESOLVED: Outcome = "inconclusive"


@dataclass(frozen=True)
class Truth:
    """What is true of a simulated table.

    Attributes:
        outcomes: outcomes that a localizer may report; the first is the answer that enough images would give.
        effects: effect of swapping every window ``(W,)``, as a share of the full one.
        kept: effect of swapping all sites but those of every window ``(W,)``.
        window: window to be found, where there is one.
        full_effect: factor of the full effect; 0 where there is no attribute to remove.
        clean_margin: mean margin of clean images.
        damage: share of the content that windows with the attribute lose.
    """

    outcomes: tuple[Outcome, ...]
    effects: Floats
    kept: Floats
    window: Window | None = None
    full_effect: float = 1.0
    clean_margin: float = 0.05
    damage: float = 0.0


def truth_of(kind: str, rng: np.random.Generator, layout: Layout) -> Truth:
    """Draws the truth of a table.

    Args:
        kind: one of `KINDS`.
        rng: randomness.
        layout: layout of the windows.
    """
    sites = layout.sites
    if kind in ("single", "damaging"):
        size = int(rng.integers(1, layout.largest + 1))
        window = Window(int(rng.integers(0, sites - size + 1)), size)
        effects, kept = _needed([window.sites], float(rng.uniform(1, 2)), layout)
        if kind == "damaging":
            return Truth(("damaging",), effects, kept, damage=0.4)
        return Truth(("localized",), effects, kept, window=window)
    if kind in ("all_at_0.70", "all_at_0.79"):
        level = np.full(len(layout.windows), float(kind[-4:]))
        return Truth(("distributed", _UNRESOLVED), level, level)
    if kind == "two_disjoint":
        size = int(rng.integers(1, layout.largest))
        starts = int(rng.integers(0, sites // 3)), int(rng.integers(sites // 2, 3 * sites // 4))
        effects, kept = _needed([Window(start, size).sites for start in starts], 1.5, layout)
        return Truth(("multiple",), effects, kept)
    if kind == "redundant":
        pair = (int(rng.integers(0, 3 * sites // 8)), int(rng.integers(5 * sites // 8, sites)))
        alone = rng.uniform(0.0, 0.35, 2)
        return Truth(("redundant", _UNRESOLVED), *_either(pair, alone, layout))
    if kind == "distributed":
        scattered = rng.permutation(sites)[: int(rng.integers(3 * sites // 8, 13 * sites // 16))]
        return Truth(("distributed", _UNRESOLVED), *_additive(scattered, layout))
    if kind == "graded":
        return Truth(("distributed", _UNRESOLVED), *_graded(int(rng.integers(0, sites)), layout))
    noise_only = np.zeros(len(layout.windows))
    if kind == "absent":
        return Truth(("absent", _UNRESOLVED), noise_only, noise_only, full_effect=0.0, clean_margin=-0.05)
    return Truth(("no_effect", _UNRESOLVED), noise_only, noise_only, full_effect=0.0)


def _needed(groups: Sequence[tuple[int, ...]], power: float, layout: Layout) -> tuple[Floats, Floats]:
    """Swapping all of any group removes the attribute; swapping a share of it removes that share to a power."""

    def effect(swapped: set[int]) -> float:
        return REACHED * float(max((len(swapped & set(group)) / len(group)) ** power for group in groups))

    return _over_windows(effect, layout)


def _either(pair: tuple[int, int], alone: Floats, layout: Layout) -> tuple[Floats, Floats]:
    """Either of two sites draws the attribute: swapping one removes little, swapping both removes it."""

    def effect(swapped: set[int]) -> float:
        gone = [site in swapped for site in pair]
        return REACHED if all(gone) else float(max([0.0, *alone[gone]]))

    return _over_windows(effect, layout)


def _additive(sites: NDArray[np.int64], layout: Layout) -> tuple[Floats, Floats]:
    """Each of many sites removes an equal part."""
    chosen = {int(site) for site in sites}

    def effect(swapped: set[int]) -> float:
        return REACHED * len(swapped & chosen) / len(chosen)

    return _over_windows(effect, layout)


def _graded(strong: int, layout: Layout) -> tuple[Floats, Floats]:
    """One site removes most, all others together the rest: keeping most by itself is then no redundancy."""

    def effect(swapped: set[int]) -> float:
        return 0.6 * (strong in swapped) + (REACHED - 0.6) * len(swapped - {strong}) / (layout.sites - 1)

    return _over_windows(effect, layout)


def _over_windows(effect: Callable[[set[int]], float], layout: Layout) -> tuple[Floats, Floats]:
    """Effects of swapping every window, and of swapping everything but it."""
    everything = set(range(layout.sites))
    swapped = np.array([effect(set(window.sites)) for window in layout.windows])
    rest = np.array([effect(everything - set(window.sites)) for window in layout.windows])
    return swapped, rest
