"""Looks at a growing part of a grid: which pairs one takes, what error it may spend, and what several say together.

Error spending: Lan and DeMets 1983, "Discrete sequential boundaries for clinical trials"; its power family: Kim and
DeMets 1987, "Design and analysis of group sequential tests based on the type I error spending rate function". The
errors of the looks are added up, which needs nothing of how they depend on each other.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
from numpy.typing import NDArray

from loco_core.evidence import Bounds, Evidence
from loco_core.score_table import ScoreTable
from loco_core.statistics import Ratios
from loco_core.types import Window

SPENDING_POWER = 2.0
"""Of the error, ``share of the pairs ** SPENDING_POWER`` is spent up to a look: little while little is known."""
WORTH_A_LOOK = 1.5
"""A look that is not so many times larger than the one before it is left out."""


@dataclass(frozen=True)
class Look:
    """A part of the grid.

    Attributes:
        prompts: how many of the first.
        seeds: how many of the first.
        spends: share of the error that is spent at this look.
    """

    prompts: int
    seeds: int
    spends: float

    @property
    def pairs(self) -> int:
        """Pairs of prompt and seed."""
        return self.prompts * self.seeds


def looks(prompts: int, seeds: int, screen: int) -> tuple[Look, ...]:
    """Returns nested looks: about ``screen`` pairs, about half of all, all.

    Each takes all prompts, and so has bounds about the same prompts as the last one: a window that does nothing in the
    first few prompts may hold in the others.

    Args:
        prompts: of the grid.
        seeds: of the grid.
        screen: pairs of the first look; two seeds at least, or how seeds differ could not be told.
    """
    first = min(seeds, max(2, math.ceil(screen / prompts)))
    parts = [seeds]
    for part in (max(first, math.ceil(seeds / 2)), first):
        if part * WORTH_A_LOOK <= parts[-1]:
            parts.append(part)
    spent, found = 0.0, []
    for part in reversed(parts):
        upto = (part / seeds) ** SPENDING_POWER
        found.append(Look(prompts, part, upto - spent))
        spent = upto
    return tuple(found)


def combined(table: ScoreTable, base: Evidence, earlier: Mapping[Window, tuple[Evidence, float]]) -> Evidence:
    """Puts what several looks say of several windows into one.

    Args:
        table: of all the windows, on the pairs of the largest look.
        base: of windows (and complements) that the largest look was taken at.
        earlier: for every other window the evidence of the largest look that it was taken at, and its upper bound.

    Returns:
        evidence of ``table.windows``; those of earlier looks are not ``settled`` and have no lower bound.
    """
    sources: list[tuple[Evidence, int]] = []
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


def _ratios(base: Evidence, ratios: Ratios, sources: Sequence[tuple[Evidence, int]]) -> Ratios:
    """Takes every window's numbers from its own look; what is needed jointly only from the largest."""
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
