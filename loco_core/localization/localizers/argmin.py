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
from loco_core.localization.base import Effect, Localization, LocalizeSettings
from loco_core.localization.estimates import WindowEstimates, estimate_windows, finite, plain_effects
from loco_core.localization.score_table import read_scores
from loco_core.statistics import Floats

BOUNDS = False
SHARE = "removed"


def localize(scores: pa.Table, settings: LocalizeSettings, site_names: Sequence[str] = ()) -> Localization:
    """Picks the window of the smallest size with the lowest mean ``clip_score``; says ``localized`` always.

    Arguments and errors are those of `loco_core.localization.base.Localizer`. Effects are given as plain ratios without
    bounds: the rule has none.
    """
    table = read_scores(scores, site_names)
    estimates, effect = estimate_windows(table, settings), plain_effects(table)
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
    reason = f"lowest mean CLIP score ({mean[best]:.3f}) of the windows of {smallest} sites"
    return Localization.of(
        table,
        "localized",
        reason,
        best=window,
        effects=_effects(estimates, effect, best),
        runner_up_start=None if runner_up is None else table.windows[runner_up].start,
        runner_up_effect=None if runner_up is None else finite(effect[runner_up]),
        all_sites_effect=estimates.all_sites_effect(),
    )


def _effects(estimates: WindowEstimates, effect: Floats, best: int) -> tuple[Effect, ...]:
    return tuple(
        Effect(
            window.start,
            window.size,
            finite(effect[i]),
            damage=finite(estimates.damage[i]),
            in_tie_set=i == best,
            flip_rate=finite(estimates.flip_rate[i]),
        )
        for i, window in enumerate(estimates.table.windows)
    )
