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
from loco_core.evidence import finite
from loco_core.localizers import Effect, Localization, LocalizeSettings, relative_depth
from loco_core.statistics import Bools, Ratios, seed_ratios
from loco_core.tracing.table import TraceTable, names_of, read_traces, two_sided, window_sums
from loco_core.types import Window

READS = "attention_contribution"
BOUNDS = False
PUBLISHED_SHARE = 6 / 28


def localize(traces: pa.Table, settings: LocalizeSettings, site_names: Sequence[str] = ()) -> Localization:
    """Picks the window with the largest summed contribution; says ``localized`` always.

    Arguments and errors are those of `loco_core.localizers.Localizer`, with traces in place of scores. The effect of a
    site is its share of the contributions of all sites.
    """
    table = read_traces(traces)
    values = table.values("contribution", "denoiser")
    count = len(values.layers)
    if values.layers != tuple(range(count)) or (site_names and len(site_names) != count):
        raise LocalizationError(f"{table.model}, {table.attribute}: traces of {count} sites, not of all")
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
    return Localization(
        model=table.model,
        attribute=table.attribute,
        attribute_kind=table.attribute_kind,
        mode=table.mode,
        localizer="attention_contribution",
        outcome="localized",
        window_start=best.start,
        window_size=best.size,
        best_start=best.start,
        best_size=best.size,
        site_names=names_of(site_names, best.sites),
        relative_depth=relative_depth(best, count),
        effect=finite(windows.value[best.start]),
        ci_low=finite(low[best.start]),
        ci_high=finite(high[best.start]),
        runner_up_start=runner_up,
        runner_up_effect=None if runner_up is None else finite(windows.value[runner_up]),
        tie_set=(best.start,),
        sufficiency=None,
        damage=None,
        all_sites_effect=None,
        threshold=settings.threshold,
        n_prompts=len(table.prompts),
        n_seeds=len(table.seeds),
        cells=int(whole.sum()),
        exploratory=table.exploratory,
        reason=f"largest summed attention contribution of {size} adjacent sites ({windows.value[best.start]:.0%} of "
        f"all); the {size} sites with the largest are {', '.join(map(str, ranked))}",
        possible_size=None,
        effects=_effects(table, sites, settings, best),
        wants=(),
    )


def _interval(ratios: Ratios, settings: LocalizeSettings) -> tuple[Sequence[float], Sequence[float]]:
    side = two_sided(settings.confidence)
    return ratios.low(side).tolist(), ratios.high(side).tolist()


def _effects(table: TraceTable, sites: Ratios, settings: LocalizeSettings, best: Window) -> tuple[Effect, ...]:
    low, high = _interval(sites, settings)
    return tuple(
        Effect(
            model=table.model,
            attribute=table.attribute,
            window_start=site,
            window_size=1,
            effect=finite(value),
            ci_low=finite(low[site]),
            ci_high=finite(high[site]),
            simultaneous_low=None,
            damage=None,
            eligible=True,
            in_tie_set=site in best.sites,
            n_prompts=len(table.prompts),
            n_seeds=len(table.seeds),
            flip_rate=None,
        )
        for site, value in enumerate(sites.value)
    )
