"""Whether a whole kind sits at a window ("style sits at 8"), from several attributes of that kind."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from scipy import special

from loco_core.errors import LocalizationError
from loco_core.localization.base import LocalizeSettings
from loco_core.localization.bounds import LEAST_SEEDS
from loco_core.localization.estimates import WindowEstimates, estimate_windows
from loco_core.localization.score_table import ScoreTable, read_scores
from loco_core.statistics import Floats, holm
from loco_core.types import Window


@dataclass(frozen=True)
class AttributeAtWindow:
    """How one attribute of a kind fares at the claimed window.

    Attributes:
        attribute: name.
        effect: effect of the window; None without an established full effect.
        p_value: one-sided, of an effect this large in these prompts if the true one were just the threshold; by
            Student's bound alone.
        p_holm: adjusted over all attributes.
        holds: ``p_holm`` is below 1 - confidence.
    """

    attribute: str
    effect: float | None
    p_value: float
    p_holm: float
    holds: bool


@dataclass(frozen=True)
class KindClaim:
    """What can be said of a kind at one window.

    Attributes:
        effect: mean effect over attributes.
        ci_low: two-sided interval of it; attributes are resampled too, so it speaks of further attributes of the kind.
        ci_high: its upper end.
        holds: the one-sided lower bound of the mean reaches the threshold, of four seeds or more.
        attributes: each by itself.
    """

    model: str
    kind: str
    window: Window
    effect: float
    ci_low: float
    ci_high: float
    holds: bool
    attributes: tuple[AttributeAtWindow, ...]


def claim_kind(
    tables: Sequence[pa.Table], window: Window, settings: LocalizeSettings, site_names: Sequence[str] = ()
) -> KindClaim:
    """Tests the claim that a kind sits at a window named beforehand, e.g. found on another attribute or set of seeds.

    Attributes, prompts within attributes and seeds (shared by all attributes) are resampled; the interval is Student's
    with the degrees of freedom of the attributes, since few of them is the usual case. It is rather too wide: what
    differs within attributes also shows between them. An attribute without an established full effect counts
    as effect 0, since leaving it out would favour the claim.

    Args:
        tables: score tables of two or more attributes of one (model, kind).
        window: swept in every table.
        settings: threshold, confidence, resamples and seed.
        site_names: addresses of the sites in execution order, as for a localizer.

    Raises:
        LocalizationError: fewer than two attributes, several models or kinds, or a table lacks the window.
    """
    read = sorted((read_scores(table, site_names) for table in tables), key=lambda table: table.attribute)
    _check(read, window)
    estimates = [estimate_windows(table, settings) for table in read]
    effects = np.array([_effect(e, window) for e in estimates])
    mean = float(np.nan_to_num(effects).mean())
    error = float(_resampled_means(estimates, window, settings).std(ddof=1))
    free = len(read) - 1
    # Resampling n attributes makes their variance a factor (n - 1) / n too small.
    error *= float(np.sqrt(len(read) / free))
    p_values = [_p_value(e, window, settings.threshold) for e in estimates]
    adjusted = holm(p_values)
    alpha = 1 - settings.confidence
    enough = min(len(table.seeds) for table in read) >= LEAST_SEEDS
    two_sided = float(special.stdtrit(free, 1 - alpha / 2)) * error
    return KindClaim(
        model=read[0].model,
        kind=read[0].attribute_kind,
        window=window,
        effect=mean,
        ci_low=mean - two_sided,
        ci_high=mean + two_sided,
        holds=enough and mean - float(special.stdtrit(free, settings.confidence)) * error >= settings.threshold,
        attributes=tuple(
            AttributeAtWindow(table.attribute, None if np.isnan(effect) else float(effect), p, q, enough and q < alpha)
            for table, effect, p, q in zip(read, effects, p_values, adjusted, strict=True)
        ),
    )


def _check(tables: Sequence[ScoreTable], window: Window) -> None:
    if len({table.attribute for table in tables}) < max(2, len(tables)):
        raise LocalizationError("a claim about a kind needs one table each of two or more attributes")
    places = sorted({f"{table.model}, {table.attribute_kind}" for table in tables})
    if len(places) > 1:
        raise LocalizationError(f"a claim is about one model and kind, not {'; '.join(places)}")
    for table in tables:
        if window not in table.windows:
            where = f"({window.start}, {window.size})"
            raise LocalizationError(f"{table.model}, {table.attribute}: window {where} was not swept")


def _effect(estimates: WindowEstimates, window: Window) -> float:
    return float(estimates.effect[estimates.table.windows.index(window)])


def _p_value(estimates: WindowEstimates, window: Window, threshold: float) -> float:
    if estimates.ratios is None:
        return 1.0
    column = estimates.table.windows.index(window)
    error = float(estimates.ratios.error[column])
    excess = float(estimates.ratios.value[column]) - threshold
    if not np.isfinite(error) or error <= 0:
        return 0.0 if excess > 0 and error == 0 else 1.0
    return float(special.stdtr(estimates.ratios.free[column], -excess / error))


def _resampled_means(estimates: Sequence[WindowEstimates], window: Window, settings: LocalizeSettings) -> Floats:
    """Mean effects ``(B,)`` under resampled attributes, prompts within them, and seeds drawn once for all."""
    rng = np.random.default_rng([settings.seed, 2])
    seeds = sorted({seed for e in estimates for seed in e.table.seeds})
    seed_counts = rng.multinomial(len(seeds), np.full(len(seeds), 1 / len(seeds)), size=settings.resamples)
    per_attribute = np.zeros((settings.resamples, len(estimates)))
    for i, e in enumerate(estimates):
        if e.ratios is None:
            continue
        column = e.table.windows.index(window)
        here, n_prompts = e.ratios.present[:, :, column], len(e.table.prompts)
        prompt_counts = rng.multinomial(n_prompts, np.full(n_prompts, 1 / n_prompts), size=settings.resamples)
        mine = seed_counts[:, [seeds.index(seed) for seed in e.table.seeds]]
        weight = np.einsum("bp,bs,ps->bps", prompt_counts, mine, here)
        total = weight.sum(axis=(1, 2))
        moved = np.einsum("bps,ps->b", weight, np.where(here, e.ratios.influence[:, :, column], 0.0))
        shift = np.divide(moved, total, out=np.zeros_like(moved), where=total > 0)
        per_attribute[:, i] = e.ratios.value[column] + shift
    drawn = rng.integers(0, len(estimates), (settings.resamples, len(estimates)))
    return np.asarray(np.take_along_axis(per_attribute, drawn, axis=1).mean(axis=1))
