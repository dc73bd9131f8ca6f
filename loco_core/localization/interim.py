"""Interim analyses of a growing part of a grid: what each takes, what error it may spend, and what all say together.

Error spending: Lan and DeMets 1983, "Discrete sequential boundaries for clinical trials"; its power family: Kim and
DeMets 1987, "Design and analysis of group sequential tests based on the type I error spending rate function". The
errors of the analyses are added up, which needs nothing of how they depend on each other.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
from numpy.typing import NDArray

from loco_core.localization.bounds import Bounds
from loco_core.localization.estimates import WindowEstimates
from loco_core.localization.score_table import ScoreTable
from loco_core.statistics import Ratios
from loco_core.types import Window

SPENDING_POWER = 2.0
"""Of the error, ``share of the pairs ** SPENDING_POWER`` is spent up to an analysis: little while little is known."""
LEAST_GROWTH = 1.5
"""An analysis that is not of so many times as many pairs as the one before it is left out."""


@dataclass(frozen=True)
class InterimAnalysis:
    """An analysis of a part of the grid.

    Attributes:
        prompts: number of prompts, from the first.
        seeds: number of seeds, from the first.
        spends: share of the error that is spent at this analysis.
    """

    prompts: int
    seeds: int
    spends: float

    @property
    def pairs(self) -> int:
        """Pairs of prompt and seed."""
        return self.prompts * self.seeds


def interim_analyses(prompts: int, seeds: int, screen: int) -> tuple[InterimAnalysis, ...]:
    """Returns nested analyses, the last one of the whole grid: about ``screen`` pairs, about half of all, all.

    Each takes all prompts, and so has bounds about the same prompts as the last one: a window that does nothing in the
    first few prompts may hold in the others.

    Args:
        prompts: number of prompts of the grid.
        seeds: number of seeds of the grid.
        screen: number of pairs of the first; two seeds at least, as one does not say how seeds differ.
    """
    first = min(seeds, max(2, math.ceil(screen / prompts)))
    parts = [seeds]
    for part in (max(first, math.ceil(seeds / 2)), first):
        if part * LEAST_GROWTH <= parts[-1]:
            parts.append(part)
    spent, found = 0.0, []
    for part in reversed(parts):
        upto = (part / seeds) ** SPENDING_POWER
        found.append(InterimAnalysis(prompts, part, upto - spent))
        spent = upto
    return tuple(found)


def combined(
    table: ScoreTable, base: WindowEstimates, earlier: Mapping[Window, tuple[WindowEstimates, float]]
) -> WindowEstimates:
    """Puts what several analyses say of several windows into one.

    Args:
        table: scores of all the windows, on the pairs of the largest analysis.
        base: estimates of windows (and complements) that the largest analysis was of.
        earlier: estimates of every other window from the largest analysis that was of it, and its upper bound.

    Returns:
        estimates of ``table.windows``; those of earlier analyses are not ``settled`` and have no lower bound.
    """
    sources: list[tuple[WindowEstimates, int]] = []
    settled = np.array([window not in earlier for window in table.windows], dtype=np.bool_)
    for window in table.windows:
        of = earlier[window][0] if window in earlier else base
        sources.append((of, of.table.windows.index(window)))

    def of_windows(name: str) -> NDArray[np.float64]:
        return np.array([getattr(of, name)[i] for of, i in sources])

    bounds = Bounds(*(np.array([getattr(of.bounds, f.name)[i] for of, i in sources]) for f in fields(Bounds)))
    high = bounds.high.copy()
    for window, (_, bound) in earlier.items():
        high[table.windows.index(window)] = bound
    moved = replace(
        base.moved,
        hits=np.array([of.moved.hits[i] for of, i in sources], dtype=np.intp),
        trials=np.array([of.moved.trials[i] for of, i in sources], dtype=np.intp),
    )
    return replace(
        base,
        table=table,
        moved=moved,
        complete=of_windows("complete").astype(np.bool_),
        settled=settled,
        ratios=None if base.ratios is None else _ratios(base, base.ratios, sources),
        bounds=replace(
            bounds,
            low=np.where(settled, bounds.low, np.nan),
            high=high,
            prompt_share_low=np.where(settled, bounds.prompt_share_low, np.nan),
        ),
        holds_in=of_windows("holds_in").astype(np.intp),
        damage=of_windows("damage"),
        invalid=of_windows("invalid"),
        flip_rate=of_windows("flip_rate"),
        prompts=of_windows("prompts").astype(np.intp),
        seeds=of_windows("seeds").astype(np.intp),
    )


def _ratios(base: WindowEstimates, ratios: Ratios, sources: Sequence[tuple[WindowEstimates, int]]) -> Ratios:
    """Takes every window's numbers from its own analysis; what is needed jointly only from the largest."""
    parts = []
    for of, i in sources:
        assert of.ratios is not None
        column = {field.name: getattr(of.ratios, field.name)[..., [i]] for field in fields(Ratios)}
        if of is not base:
            # Not comparable pair by pair.
            like = ratios.influence[:, :, :1]
            column |= {"influence": np.full_like(like, np.nan), "present": np.zeros_like(like, dtype=np.bool_)}
        parts.append(Ratios(**column))
    rest = {field.name: getattr(ratios, field.name)[..., len(base.table.windows) :] for field in fields(Ratios)}
    parts.append(Ratios(**rest))
    joined = {field.name: np.concatenate([getattr(p, field.name) for p in parts], axis=-1) for field in fields(Ratios)}
    return Ratios(**joined)
