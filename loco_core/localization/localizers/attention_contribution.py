"""Attention contribution: where the concept's words write most into the image.

After *Localizing Knowledge in Diffusion Transformers* (Zarei et al., NeurIPS 2025): sites are ranked by their
attention contribution (see `loco_core.tracing.attention`), and the K largest are taken; the authors take K = 6 of
the 28 blocks of PixArt-alpha. Here it is the same share of the sites, side by side, so that the pick is a window like
others: the one with the largest sum. The rule changes nothing in the model and compares no pictures: it always finds a
window.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from loco_core.errors import LocalizationError
from loco_core.localization.base import Effect, Localization, LocalizeSettings
from loco_core.localization.estimates import finite
from loco_core.localization.trace_table import read_traces, two_sided, window_sums
from loco_core.statistics import Bools, Ratios, seed_ratios
from loco_core.types import Window

READS = "attention_contribution"
BOUNDS = False
SHARE = "of all contributions"
METHODS = (
    "Attention contribution (after Zarei et al., NeurIPS 2025; the pick of adjacent sites is this project's) is the "
    "norm of what the words that the donor changes write into the image at a site, summed over heads after the output "
    "projection, averaged over image tokens, steps, prompts and seeds."
)
PUBLISHED_SHARE = 6 / 28


def localize(traces: pa.Table, settings: LocalizeSettings, site_names: Sequence[str] = ()) -> Localization:
    """Picks the window with the largest summed contribution; says ``localized`` always.

    Arguments and errors are those of `loco_core.localization.base.Localizer`, with traces in place of scores. The
    effect of a site is its share of the contributions of all sites.
    """
    table = read_traces(traces, site_names)
    values = table.sites("contribution")
    count = len(values.layers)
    whole: Bools = np.asarray(values.present.all(axis=2), dtype=np.bool_)
    if not whole.any() or not values.value[whole].sum() > 0:
        raise LocalizationError(f"{table.model}, {table.attribute}: no picture has a contribution")
    size = max(1, round(PUBLISHED_SHARE * count))
    kept = np.where(whole[:, :, None], values.value, 0.0)
    present = np.repeat(whole[:, :, None], count, axis=2)
    sites = seed_ratios(kept, kept.sum(axis=2), present, count)
    sums = window_sums(kept, size)
    windows = seed_ratios(sums, kept.sum(axis=2), present[:, :, : sums.shape[2]], sums.shape[2])
    best = Window(int(windows.value.argmax()), size)
    apart = [i for i in range(sums.shape[2]) if not Window(i, size).overlaps(best)]
    runner_up = max(apart, key=lambda i: (windows.value[i], -i)) if apart else None
    ranked = [int(site) for site in np.argsort(-sites.value, kind="stable")[:size]]
    low, high = _interval(windows, settings)
    reason = f"largest summed attention contribution of {size} adjacent sites ({windows.value[best.start]:.0%} of all)"
    return Localization.of(
        table,
        "localized",
        f"{reason}; the {size} sites with the largest are {', '.join(map(str, ranked))}",
        best=best,
        effects=_effects(sites, settings, best),
        effect=finite(windows.value[best.start]),
        ci_low=finite(low[best.start]),
        ci_high=finite(high[best.start]),
        tie_set=(best.start,),
        runner_up_start=runner_up,
        runner_up_effect=None if runner_up is None else finite(windows.value[runner_up]),
        cells=int(whole.sum()),
    )


def _interval(ratios: Ratios, settings: LocalizeSettings) -> tuple[Sequence[float], Sequence[float]]:
    side = two_sided(settings.confidence)
    return ratios.low(side).tolist(), ratios.high(side).tolist()


def _effects(sites: Ratios, settings: LocalizeSettings, best: Window) -> tuple[Effect, ...]:
    low, high = _interval(sites, settings)
    return tuple(
        Effect(site, 1, finite(value), finite(low[site]), finite(high[site]), in_tie_set=site in best.sites)
        for site, value in enumerate(sites.value)
    )
