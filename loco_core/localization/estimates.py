"""What a score table says about every window: effect, damage and how far both can be trusted.

The margin of an image is cos(image, score_text) - cos(image, donor_text), with siblings' texts the
largest of the latter; the effect of a window is ``sum(clean - window) / sum(clean - donor)`` over the same prompts and
seeds, so 0 is no effect and 1 is as much as the donor prompt, or the donor model at all sites, has.

Bounds of effects are about *these prompts*, see `loco_core.localization.bounds`. About *prompts like these* stands the
exact bound of the share of prompts in which the window holds.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from loco_core.localization.base import LocalizeSettings
from loco_core.localization.bounds import Bounds, Moved, bounds_of, moved_images
from loco_core.localization.score_table import Images, ScoreTable
from loco_core.statistics import (
    Bools,
    Floats,
    Means,
    Ratios,
    binomial_low,
    quarter_weights,
    seed_means,
    seed_ratios,
    weighted_ratios,
)
from loco_core.types import Window

MISSING_SHARE = 0.2
"""Cells that a window may lack and still be judged by the others, and pairs that may lack a reference image. With 3 %
of all cells missing at random, a window of 32 cells lacks more than a twentieth of them in one case of four, more than
a fifth practically never."""
LEAST_FULL_EFFECT = 0.01
"""In cosine: below this a full effect, or a content range, is not one."""
SPLITS = 25
"""Random quarterings of the grid behind a cross-fitted effect, each used four ways round."""


@dataclass(frozen=True)
class WindowEstimates:
    """Estimates of one table; window arrays ``(W,)`` are in the order of ``table.windows``.

    Attributes:
        table: score table that was read.
        paired: ``(P, S)`` pairs with a valid clean and a valid donor image; only these enter.
        full: mean clean minus donor margin, one column.
        clean: mean clean margin, one column.
        complete: windows with four fifths of their cells and some of every prompt; others are not judged.
        settled: windows with cells on all pairs of the table; only these are picked from and compared.
        ratios: effects of windows, then complements, then all sites; None without an established full effect.
        bounds: lower and upper bounds of the window effects; NaN for incomplete windows.
        holds_in: number of prompts in which the mean over the seeds reaches the threshold; of no meaning without
            `ratios`.
        damage: lost content, NaN where nothing is known.
        invalid: share of invalid images.
        flip_rate: share of images moved to the donor's side, NaN where no clean image is on the attribute's side.
        prompts: number of prompts with cells of each window.
        seeds: number of seeds with cells of each window.
        family: number of windows that the bounds hold for together.
        moved: images that each window moves more than half way.
    """

    table: ScoreTable
    paired: Bools
    full: Means
    clean: Means
    complete: Bools
    settled: Bools
    ratios: Ratios | None
    bounds: Bounds
    holds_in: NDArray[np.intp]
    damage: Floats
    invalid: Floats
    flip_rate: Floats
    prompts: NDArray[np.intp]
    seeds: NDArray[np.intp]
    family: int
    moved: Moved

    @property
    def sizes(self) -> NDArray[np.intp]:
        """Size of every window."""
        return np.array([window.size for window in self.table.windows], dtype=np.intp)

    @property
    def effect(self) -> Floats:
        """Effect of every window; NaN without a full effect."""
        count = len(self.table.windows)
        return np.full(count, np.nan) if self.ratios is None else self.ratios.value[:count]

    @property
    def low(self) -> Floats:
        """Lower bounds that hold for all windows together."""
        return self.bounds.low

    @property
    def high(self) -> Floats:
        """Upper bounds that hold for all windows together."""
        return self.bounds.high

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

    def all_sites_high(self, confidence: float) -> float | None:
        """Upper bound of the effect of swapping all sites, if it was run."""
        return None if self.ratios is None else finite(self.ratios.high(confidence)[-1])

    def cross_fitted(self, picked: int, candidates: Bools, settings: LocalizeSettings) -> float | None:
        """Effect of the picked window, where it is picked on a quarter of the grid and estimated on another.

        The two quarters share neither prompts nor seeds; picking and estimating on the same images, or on images of
        the same seeds, would flatter the winner. The size is picked too: the smallest at which a window passes, by the
        margin of error that it has in the whole grid; where none does, the largest. Averaged over the random quarters
        in which the pick is the same as in the whole grid.

        Args:
            picked: column of the window.
            candidates: ``(W,)`` windows to pick from.
            settings: gives threshold and seed.

        Returns:
            None where no quarter picks it, and with a single pair, which has no parts.
        """
        n_prompts, n_seeds = self.paired.shape
        columns = np.flatnonzero(candidates)
        if max(n_prompts, n_seeds) < 2 or not len(columns):
            return None
        rng = np.random.default_rng([settings.seed, 1])
        pick, estimate = quarter_weights(n_prompts, n_seeds, SPLITS, rng)
        top, bottom, present = numerators(self.table, self.paired)
        flat = np.where(present, top, 0.0)[:, :, columns].reshape(-1, len(columns))
        full = np.where(present, bottom[:, :, None], 0.0)[:, :, columns].reshape(-1, len(columns))
        seen, sizes = weighted_ratios(flat, full, pick), self.sizes[columns]
        passes = seen - (self.effect - self.low)[columns] >= settings.threshold
        smallest = np.where(passes, sizes, sizes.max()).min(axis=1, keepdims=True)
        same = columns[np.where(sizes == smallest, seen, -np.inf).argmax(axis=1)] == picked
        at = columns == picked
        return float(weighted_ratios(flat[:, at], full[:, at], estimate[same]).mean()) if same.any() else None


def estimate_windows(
    table: ScoreTable,
    settings: LocalizeSettings,
    *,
    family: int = 0,
    high_confidence: float | None = None,
    alike: float | None = None,
) -> WindowEstimates:
    """Estimates all windows of a table together.

    Args:
        table: score table that was read.
        settings: the ``localize:`` block.
        family: number of windows that those of the table were chosen from, if they were.
        high_confidence: confidence of the upper bounds, where a part of the error is spent elsewhere.
        alike: likeness of the windows' variation, see `loco_core.statistics.likeness`; None estimates it from those of
            the table.
    """
    paired = (table.clean.valid & table.donor.valid)[:, :, 0]
    top, bottom, present = numerators(table, paired)
    count = len(table.windows)
    complete = np.full(count, bool(paired.mean() >= 1 - MISSING_SHARE))
    run = table.swept.present & paired[:, :, None]
    if paired.any():
        # And of every prompt some: a mean over these prompts cannot leave one out.
        complete &= table.swept.present[paired].mean(axis=0) >= 1 - MISSING_SHARE
        complete &= np.asarray(run.any(axis=1))[paired.any(axis=1)].all(axis=0)
    full = seed_means(bottom[:, :, None], paired[:, :, None])
    ratios = None
    if established(full, settings.confidence):
        ratios = seed_ratios(top, bottom, present, count, alike)
    invalid = _mean(~table.swept.valid, present[:, :, :count])
    family = max(family, int(complete.sum()))
    moved, holds = moved_images(table, top, bottom, run, paired), _holds_in(top, bottom, run, settings)
    bounds = bounds_of(ratios, moved, complete, settings, family, high_confidence)
    share = binomial_low(holds, int(paired.any(axis=1).sum()), (1 - settings.confidence) / max(family, 1))
    return WindowEstimates(
        table=table,
        paired=paired,
        full=full,
        clean=seed_means(np.where(paired[:, :, None], table.clean.margin, 0.0), paired[:, :, None]),
        complete=complete,
        settled=np.ones(count, dtype=np.bool_),
        ratios=ratios,
        # Without a full effect there is nothing that could hold in a prompt.
        bounds=replace(
            bounds,
            high=bounds.high + invalid,
            prompt_share_low=np.where(complete & (ratios is not None), share, np.nan),
        ),
        holds_in=holds,
        damage=_damage(table, paired),
        invalid=invalid,
        flip_rate=_flip_rate(table, paired),
        prompts=run.any(axis=1).sum(axis=0),
        seeds=run.any(axis=0).sum(axis=0),
        family=family,
        moved=moved,
    )


def _holds_in(top: Floats, bottom: Floats, run: Bools, settings: LocalizeSettings) -> NDArray[np.intp]:
    """Returns in how many prompts each window holds.

    A prompt whose own clean and donor images do not differ counts as one in which it does not.
    """
    lost = np.where(run, top[:, :, : run.shape[2]], 0.0).sum(axis=1)
    full = np.where(run, bottom[:, :, None], 0.0).sum(axis=1)
    return np.asarray(((full > 0) & (lost >= settings.threshold * full)).sum(axis=0))


def plain_effects(table: ScoreTable) -> Floats:
    """Returns the effect of every window as a ratio of sums ``(W,)``, established or not; NaN where there is none."""
    paired = (table.clean.valid & table.donor.valid)[:, :, 0]
    top, bottom, present = numerators(table, paired)
    there = present[:, :, : len(table.windows)]
    full = np.where(there, bottom[:, :, None], 0.0).sum(axis=(0, 1))
    lost = np.where(there, top[:, :, : len(table.windows)], 0.0).sum(axis=(0, 1))
    return np.asarray(np.divide(lost, full, out=np.full(len(full), np.nan), where=full > 0))


def established(full: Means, confidence: float) -> bool:
    """Tells whether there is a full effect to take shares of.

    Its lower bound must reach half its mean (or the ratio is mostly noise) and `LEAST_FULL_EFFECT`.
    """
    return bool(full.low(confidence)[0] >= max(full.value[0] / 2, LEAST_FULL_EFFECT))


def negligible(full: Means, clean: Means, confidence: float) -> bool:
    """Tells whether the full effect is shown to be next to nothing.

    Its bounds on both sides must lie within a tenth of the clean images' own margin, or `LEAST_FULL_EFFECT`. An effect
    that is merely not established may be a large one of which too few images were drawn.
    """
    most = max(abs(float(clean.value[0])) / 10, LEAST_FULL_EFFECT)
    return bool(full.high(confidence)[0] <= most and full.low(confidence)[0] >= -most)


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
    """Content score of the donor image minus the window's, as a share of the range from unrelated to own content.

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
