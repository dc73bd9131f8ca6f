"""The lowest mean CLIP score: the criterion of the paper (LocoGen, ICML 2024), at the smallest swept size.

The paper grows the window until "the attribute is gone" and publishes no threshold for that; its smallest windows have
two, three or five sites. Here the smallest swept size is taken, often a single site. The rule has no notion of noise,
of damage or of an attribute that is nowhere: it always finds a window. It is here to be compared with. What it says is
about the pictures that were drawn, and nothing beyond.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from loco_core.errors import LocalizationError
from loco_core.evidence import Evidence, finite, gather, plain_effects
from loco_core.localizers import Effect, Localization, LocalizeSettings, relative_depth
from loco_core.score_table import read_scores
from loco_core.statistics import Floats
from loco_core.verdict import exploratory

BOUNDS = False


def localize(scores: pa.Table, settings: LocalizeSettings, site_names: Sequence[str] = ()) -> Localization:
    """Picks the window of the smallest size with the lowest mean ``clip_score``; says ``localized`` always.

    Arguments and errors are those of `loco_core.localizers.Localizer`. Effects are given as plain ratios without
    bounds: the rule has none.
    """
    table = read_scores(scores, site_names)
    evidence, effect = gather(table, settings), plain_effects(table)
    smallest = min(window.size for window in table.windows)
    valid = table.swept.valid
    total, count = np.where(valid, table.swept.score, 0.0).sum(axis=(0, 1)), valid.sum(axis=(0, 1))
    mean = np.divide(total, count, out=np.full(len(count), np.inf), where=count > 0)
    mean[[window.size != smallest for window in table.windows]] = np.inf
    best = int(mean.argmin())
    if not np.isfinite(mean[best]):
        raise LocalizationError(f"{table.model}, {table.attribute}: no valid image of a window of {smallest} sites")
    window = table.windows[best]
    others = [i for i, other in enumerate(table.windows) if not other.overlaps(window) and np.isfinite(mean[i])]
    runner_up = min(others, key=lambda i: (mean[i], i)) if others else None
    return Localization(
        model=table.model,
        attribute=table.attribute,
        attribute_kind=table.attribute_kind,
        mode=table.mode,
        localizer="argmin",
        outcome="localized",
        window_start=window.start,
        window_size=window.size,
        best_start=window.start,
        best_size=window.size,
        site_names=tuple(site_names[i] for i in window.sites) if site_names else (),
        relative_depth=relative_depth(window, table.n_sites),
        effect=finite(effect[best]),
        ci_low=None,
        ci_high=None,
        runner_up_start=None if runner_up is None else table.windows[runner_up].start,
        runner_up_effect=None if runner_up is None else finite(effect[runner_up]),
        tie_set=(window.start,),
        sufficiency=None,
        damage=finite(evidence.damage[best]),
        all_sites_effect=evidence.all_sites_effect(),
        threshold=settings.threshold,
        n_prompts=len(table.prompts),
        n_seeds=len(table.seeds),
        cells=table.cells,
        exploratory=exploratory(len(table.prompts), len(table.seeds)),
        reason=f"lowest mean CLIP score ({mean[best]:.3f}) of the windows of {smallest} sites",
        possible_size=None,
        effects=_effects(evidence, effect, best),
        wants=(),
    )


def _effects(evidence: Evidence, effect: Floats, best: int) -> tuple[Effect, ...]:
    table = evidence.table
    return tuple(
        Effect(
            model=table.model,
            attribute=table.attribute,
            window_start=window.start,
            window_size=window.size,
            effect=finite(effect[i]),
            ci_low=None,
            ci_high=None,
            simultaneous_low=None,
            damage=finite(evidence.damage[i]),
            eligible=True,
            in_tie_set=i == best,
            n_prompts=len(table.prompts),
            n_seeds=len(table.seeds),
            flip_rate=finite(evidence.flip_rate[i]),
        )
        for i, window in enumerate(table.windows)
    )
