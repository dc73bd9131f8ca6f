"""Causal tracing: the one layer that, restored from a clean run, brings most of a corrupted attribute back.

The rule of Meng et al. (NeurIPS 2022), for diffusion models of DiffQuickFix (Basu et al., ICLR 2024). The effect of a
layer is ``sum(s_restored - s_corrupted) / sum(s_clean - s_corrupted)`` over prompts and seeds, where s is the margin
``cos(image, score_text) - cos(image, donor_text)``, with siblings' texts the largest of the latter (see
`loco_core.tracing.causal`): 0 brings nothing back, 1 all that the noise takes. The rule picks a single
cross-attention site of the denoiser. Layers of the text encoder are no sites: their effects stand beside, the largest
is named in the reason.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from loco_core.errors import LocalizationError
from loco_core.localization.base import Effect, Localization, LocalizeSettings, Outcome
from loco_core.localization.estimates import MISSING_SHARE, established, finite, negligible
from loco_core.localization.trace_table import TraceTable, Values, read_traces, two_sided
from loco_core.statistics import Bools, Floats, Means, Ratios, seed_means, seed_ratios
from loco_core.types import Window

READS = "causal_tracing"
SHARE = "brought back"
METHODS = (
    "Causal tracing (after Meng et al., NeurIPS 2022, and Basu et al., ICLR 2024; the pick of one site is this "
    "project's) puts Gaussian noise of three standard deviations of the word embeddings on these words, restores the "
    "output of one layer from the clean run, and gives the share of the lost CLIP margin that comes back."
)


def localize(traces: pa.Table, settings: LocalizeSettings, site_names: Sequence[str] = ()) -> Localization:
    """Picks the site with the largest effect; none where the noise takes nothing, or no site brings anything back.

    Arguments and errors are those of `loco_core.localization.base.Localizer`, with traces in place of scores.
    """
    table = read_traces(traces, site_names)
    clean, corrupted = table.values("clean"), table.values("corrupted")
    paired = (clean.present & corrupted.present)[:, :, 0]
    if not paired.any():
        raise LocalizationError(f"{table.model}, {table.attribute}: no clean picture has a corrupted one beside it")
    full = np.where(paired, (clean.value - corrupted.value)[:, :, 0], 0.0)
    taken = seed_means(full[:, :, None], paired[:, :, None])
    sites = table.sites("restored")
    if not established(taken, settings.confidence):
        kept = seed_means(np.where(paired[:, :, None], clean.value, 0.0), paired[:, :, None])
        small = negligible(taken, kept, settings.confidence)
        seen = f"the noise takes {taken.value[0]:.3f} of the margin on average"
        reason = f"{seen}, next to nothing" if small else f"{seen}, which is too uncertain to take shares of"
        return _answer(table, "no_effect" if small else "inconclusive", reason)
    texts = table.values("restored", "text_encoder")
    found = [_ratios(values, corrupted.value, full, paired, settings) for values in (sites, texts)]
    denoiser, encoder = found
    whole = [np.flatnonzero(_whole(values, paired)) for values in (sites, texts)]
    if not all(map(len, whole)):
        raise LocalizationError(f"{table.model}, {table.attribute}: too many restored pictures of every layer are none")
    best, word = (int(at[ratios.value[at].argmax()]) for at, ratios in zip(whole, found, strict=True))
    side = two_sided(settings.confidence)
    beside = f"; of the text encoder's layers {texts.names[word]} brings back {_share(encoder, word, side)}"
    share = f"site {best} brings back {_share(denoiser, best, side)} of what the noise takes"
    effects = (
        *_effects(settings, sites, denoiser, "denoiser", best, whole[0]),
        *_effects(settings, texts, encoder, "text_encoder", word, whole[1]),
    )
    # The best of all: its bound must hold for whichever site would have been it.
    if not denoiser.simultaneous_low(settings.confidence, whole[0])[whole[0] == best][0] > 0:
        reason = f"no single site is shown to bring anything back: {share}, the most of all{beside}"
        return _answer(table, "inconclusive", reason, best, effects)
    reason = f"restored from the clean run, {share}, more than any other{beside}"
    return _answer(table, "localized", reason, best, effects)


def _ratios(values: Values, corrupted: Floats, full: Floats, paired: Bools, settings: LocalizeSettings) -> Ratios:
    present = values.present & paired[:, :, None]
    back = np.where(present, values.value - corrupted, 0.0)
    return seed_ratios(back, full, present, back.shape[2])


def _whole(values: Values, paired: Bools) -> Bools:
    """Tells which layers have next to all of their pictures: one lucky picture of a layer says nothing of it."""
    whole: Bools = values.present[paired].mean(axis=0) >= 1 - MISSING_SHARE
    return whole


def _share(ratios: Means, at: int, side: float) -> str:
    low, high = ratios.low(side)[at], ratios.high(side)[at]
    return f"{ratios.value[at]:.0%}" + (f" [{low:.0%}, {high:.0%}]" if np.isfinite(high - low) else "")


def _answer(
    table: TraceTable, outcome: Outcome, reason: str, best: int | None = None, effects: tuple[Effect, ...] = ()
) -> Localization:
    others = [row for row in effects if row.component == "denoiser" and row.eligible and row.window_start != best]
    runner_up = max(others, key=lambda row: row.effect or 0.0) if others else None
    return Localization.of(
        table,
        outcome,
        reason,
        best=None if best is None else Window(best, 1),
        effects=effects,
        runner_up_start=runner_up and runner_up.window_start,
        runner_up_effect=runner_up and runner_up.effect,
        about="these_prompts" if len(table.seeds) > 1 else "these_pictures",
    )


def _effects(
    settings: LocalizeSettings, values: Values, ratios: Ratios, component: str, best: int, whole: NDArray[np.intp]
) -> tuple[Effect, ...]:
    side = two_sided(settings.confidence)
    low, high = ratios.low(side), ratios.high(side)
    behind = ratios.difference(best, np.arange(len(values.layers), dtype=np.intp)).low(side)
    return tuple(
        Effect(
            layer,
            1,
            finite(ratios.value[i]),
            finite(low[i]),
            finite(high[i]),
            eligible=i in whole,
            in_tie_set=i == best or (i in whole and bool(behind[i] <= 0)),
            component=component,
        )
        for i, layer in enumerate(values.layers)
    )
