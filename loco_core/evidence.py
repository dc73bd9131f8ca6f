"""What a score table says about every window: effect, damage and how far both can be trusted.

The margin of an image is cos(image, score_text) - cos(image, donor_text); the effect of a window is
``sum(clean - window) / sum(clean - donor)`` over the same prompts and seeds, so 0 is no effect and 1 is as much as
the donor prompt outright has.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from loco_core.localizers import LocalizeSettings
from loco_core.score_table import Images, ScoreTable
from loco_core.statistics import (
    Bools,
    Floats,
    Means,
    Ratios,
    crossed_means,
    crossed_ratios,
    crossed_weights,
    half_split_weights,
    weighted_ratios,
)
from loco_core.types import Window

MISSING_SHARE = 0.05
"""Cells that may be missing from a window, or reference images from the grid, before the table counts as incomplete."""
LEAST_FULL_EFFECT = 0.01
"""In cosine: below this a full effect, or a content range, is not one."""
SPLITS = 25
"""Random halvings of the prompts behind a cross-fitted effect, each used both ways round."""


@dataclass(frozen=True)
class Evidence:
    """Estimates of one table; window arrays ``(W,)`` are in the order of ``table.windows``.

    Attributes:
        table: what was read.
        paired: ``(P, S)`` pairs with a valid clean and a valid donor image; only these enter.
        full: mean clean minus donor margin, one column.
        clean: mean clean margin, one column.
        complete: windows with nearly all their cells.
        settled: windows with cells on all pairs of the table; only these are picked from and compared.
        ratios: effects of windows, then complements, then all sites; None without an established full effect.
        low: simultaneous lower bounds of the window effects; NaN for incomplete windows, likewise ``high``.
        high: simultaneous upper bounds; an invalid image counts as if it had had the full effect.
        damage: lost content, NaN where nothing is known.
        invalid: share of invalid images.
        flip_rate: share of images moved to the donor's side, NaN where no clean image is on the attribute's side.
        prompts: with cells of each window.
        seeds: with cells of each window.
    """

    table: ScoreTable
    paired: Bools
    full: Means
    clean: Means
    complete: Bools
    settled: Bools
    ratios: Ratios | None
    low: Floats
    high: Floats
    damage: Floats
    invalid: Floats
    flip_rate: Floats
    prompts: NDArray[np.intp]
    seeds: NDArray[np.intp]

    @property
    def sizes(self) -> NDArray[np.intp]:
        """Size of every window."""
        return np.array([window.size for window in self.table.windows], dtype=np.intp)

    @property
    def effect(self) -> Floats:
        """Effect of every window; NaN without a full effect."""
        count = len(self.table.windows)
        return np.full(count, np.nan) if self.ratios is None else self.ratios.value[:count]

    def disjoint(self, window: Window) -> Bools:
        """Tells which windows share no site with ``window``."""
        return np.array([not window.overlaps(other) for other in self.table.windows], dtype=np.bool_)

    def complement_columns(self) -> dict[Window, int]:
        """Where in ``ratios`` the complete complements are."""
        first = len(self.table.windows)
        whole = self.table.complement.present[self.paired].mean(axis=0) >= 1 - MISSING_SHARE
        return {window: first + i for i, window in enumerate(self.table.complements) if whole[i]}

    def all_sites_effect(self) -> float | None:
        """Effect of swapping all sites, if it was run."""
        return None if self.ratios is None else finite(self.ratios.value[-1])

    def cross_fitted(self, candidates: Bools, settings: LocalizeSettings) -> float | None:
        """Effect of the best candidate, picked on half the prompts and estimated on the other half.

        Averaged over random halvings; picking and estimating on the same images would flatter the winner.

        Args:
            candidates: ``(W,)`` windows to pick from.
            settings: gives the seed.

        Returns:
            None with a single prompt, which has no halves.
        """
        n_prompts, n_seeds = self.paired.shape
        if n_prompts < 2:
            return None
        rng = np.random.default_rng([settings.seed, 1])
        pick, estimate = half_split_weights(n_prompts, n_seeds, SPLITS, rng)
        top, bottom, present = numerators(self.table, self.paired)
        columns = np.flatnonzero(candidates)
        flat = np.where(present, top, 0.0)[:, :, columns].reshape(-1, len(columns))
        full = np.where(present, bottom[:, :, None], 0.0)[:, :, columns].reshape(-1, len(columns))
        best = weighted_ratios(flat, full, pick).argmax(axis=1)
        return float(weighted_ratios(flat, full, estimate)[np.arange(len(best)), best].mean())


def gather(
    table: ScoreTable,
    settings: LocalizeSettings,
    *,
    family: int = 0,
    high_confidence: float | None = None,
    alike: float | None = None,
) -> Evidence:
    """Estimates all windows of a table together.

    Args:
        table: what was read.
        settings: the ``localize:`` block.
        family: how many windows those of the table were chosen from; 0 where they were not.
        high_confidence: of the upper bounds, where a part of the error is spent elsewhere.
        alike: how alike windows vary, see `loco_core.statistics.likeness`; None estimates it from those of the table.
    """
    paired = (table.clean.valid & table.donor.valid)[:, :, 0]
    top, bottom, present = numerators(table, paired)
    full = crossed_means(bottom[:, :, None], paired[:, :, None])
    clean = crossed_means(np.where(paired[:, :, None], table.clean.margin, 0.0), paired[:, :, None])
    count = len(table.windows)
    enough = 1 - MISSING_SHARE
    complete = np.full(count, bool(paired.mean() >= enough))
    if paired.any():
        complete &= table.swept.present[paired].mean(axis=0) >= enough
    run = table.swept.present & paired[:, :, None]
    ratios = None
    low, high = np.full(count, np.nan), np.full(count, np.nan)
    invalid = _mean(~table.swept.valid, present[:, :, :count])
    if established(full, settings.confidence):
        weights = crossed_weights(
            paired.shape[0], paired.shape[1], settings.resamples, np.random.default_rng([settings.seed, 0])
        )
        ratios = crossed_ratios(top, bottom, present, weights, count, alike)
        columns = np.flatnonzero(complete)
        above = settings.confidence if high_confidence is None else high_confidence
        low[columns] = ratios.simultaneous_low(settings.confidence, columns, family)
        high[columns] = ratios.simultaneous_high(above, columns, family) + invalid[columns]
    return Evidence(
        table=table,
        paired=paired,
        full=full,
        clean=clean,
        complete=complete,
        settled=np.ones(count, dtype=np.bool_),
        ratios=ratios,
        low=low,
        high=high,
        damage=_damage(table, paired),
        invalid=invalid,
        flip_rate=_flip_rate(table, paired),
        prompts=run.any(axis=1).sum(axis=0),
        seeds=run.any(axis=0).sum(axis=0),
    )


def established(full: Means, confidence: float) -> bool:
    """Tells whether there is a full effect to take shares of.

    Its lower bound must reach half its mean (or the ratio is mostly noise) and `LEAST_FULL_EFFECT`.
    """
    return bool(full.low(confidence)[0] >= max(full.value[0] / 2, LEAST_FULL_EFFECT))


def numerators(table: ScoreTable, paired: Bools) -> tuple[Floats, Floats, Bools]:
    """Clean minus swapped margin of all columns, clean minus donor margin, and what is there.

    An invalid image is evidence of damage, not of removal: it counts as no effect, and among complements (where a small
    effect is the claim) as the full one.

    Returns:
        ``(P, S, windows + complements + 1)``, ``(P, S)``, and presence like the first.
    """
    bottom = np.where(paired, (table.clean.margin - table.donor.margin)[:, :, 0], 0.0)
    parts = (
        _drop(table.swept, table.clean.margin, np.zeros_like(bottom)),
        _drop(table.complement, table.clean.margin, bottom),
        _drop(table.all_sites, table.clean.margin, np.zeros_like(bottom)),
    )
    present = np.concatenate([table.swept.present, table.complement.present, table.all_sites.present], axis=2)
    present &= paired[:, :, None]
    return np.where(present, np.concatenate(parts, axis=2), 0.0), bottom, present


def _drop(images: Images, clean: Floats, if_invalid: Floats) -> Floats:
    # Its own clean image where it is known: another device, or another batch shape, draws it a little differently.
    beside = np.where(np.isfinite(images.own_clean), images.own_clean, clean)
    return np.where(images.valid, beside - images.margin, if_invalid[:, :, None])


def _damage(table: ScoreTable, paired: Bools) -> Floats:
    """Content score of the donor outright minus the window's, as a share of the range from unrelated to own content.

    The range is the mean cosine of clean images with their own content text minus that with the other records' content
    texts. Where it is unknown (one content text for all records) or too small to measure anything, damage is the share
    of invalid images. An invalid image has lost everything: it counts as 1.
    """
    present = table.swept.present & paired[:, :, None]
    own = table.clean.content[:, :, 0]
    known = paired & np.isfinite(own) & np.isfinite(table.unrelated)
    span = float((own - table.unrelated)[known].mean()) if known.any() else 0.0
    if span < LEAST_FULL_EFFECT:
        return _mean(~table.swept.valid, present)
    lost = (table.donor.content - table.swept.content) / span
    lost = np.where(table.swept.valid, lost, 1.0)
    return _mean(lost, present & np.isfinite(lost))


def _flip_rate(table: ScoreTable, paired: Bools) -> Floats:
    sided = table.swept.present & (paired & (table.clean.margin[:, :, 0] > 0))[:, :, None]
    return _mean(table.swept.valid & (table.swept.margin < 0), sided)


def _mean(values: Floats | Bools, where: Bools) -> Floats:
    """Mean over prompts and seeds of what ``where`` says; NaN where that is nothing."""
    count = where.sum(axis=(0, 1))
    total = np.where(where, values, 0.0).sum(axis=(0, 1))
    return np.asarray(np.divide(total, count, out=np.full(len(count), np.nan), where=count > 0))


def finite(value: float) -> float | None:
    """None for NaN and infinity: tables hold nulls, not NaN."""
    return float(value) if np.isfinite(value) else None


def disjoint_cover(windows: Iterable[Window]) -> tuple[Window, ...]:
    """Takes windows in the given order, each that shares no site with those taken before."""
    taken: list[Window] = []
    for window in windows:
        if not any(window.overlaps(other) for other in taken):
            taken.append(window)
    return tuple(taken)
