"""What evidence amounts to: the rules from bounds to an outcome, and the outcome as a `Localization`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import special

from loco_core.evidence import MISSING_SHARE, Evidence, disjoint_cover, finite
from loco_core.localizers import Effect, Localization, LocalizeSettings, Outcome, Request, relative_depth
from loco_core.statistics import Bools, Floats
from loco_core.types import Window

FEW_PROMPTS, FEW_SEEDS = 8, 4
PREVAILS = 0.5
"""Half the full effect: an image that lost less is still nearer the prompt than the donor."""


@dataclass(frozen=True)
class Verdict:
    """An outcome with its reason.

    Attributes:
        outcome: see `loco_core.localizers.Outcome`.
        reason: in one sentence.
        best: column of the window that the outcome speaks of.
        ties: columns that are not told apart from it.
        complements: windows whose complements would add to the verdict and were not run.
    """

    outcome: Outcome
    reason: str
    best: int | None = None
    ties: tuple[int, ...] = ()
    complements: tuple[Window, ...] = ()


def judge(evidence: Evidence, settings: LocalizeSettings, *, complements_done: bool = False) -> Verdict:
    """Judges by these rules, in this order.

    1. ``incomplete``: more than one cell in twenty is missing.
    2. ``absent``: no full effect is established, and the clean images are on the donor's side of the margin (upper
       bound of their mean at most 0). Both are needed: a text pair may put every image on one side, and then only the
       donor images tell whether the attribute is there.
    3. ``no_effect``: clean and donor images differ, in margin, by less than can be measured.
    4. A window passes if its simultaneous lower bound reaches the threshold; the smallest size at which a window passes
       without too much damage wins: ``localized``, or ``multiple`` if a window that shares no site with it passes
       too. If all that pass do damage: ``damaging``.
    5. ``inconclusive``: none passes, but some upper bound reaches the threshold, or the sweep has no windows of the
       largest size in range.
    6. ``redundant``: none is necessary, but the sites of some window alone keep most of the attribute, and so do all
       others without them.
    7. ``distributed``: none of these; no window in range holds the attribute.

    Args:
        evidence: of all windows.
        settings: the ``localize:`` block.
        complements_done: no further complements are to be wanted for the sake of ``redundant``.
    """
    unfit = _unfit(evidence, settings)
    if unfit is not None:
        return unfit
    in_range = evidence.sizes <= settings.largest(evidence.table.n_sites)
    if not in_range.any():
        return Verdict("inconclusive", f"no window of at most {_share(settings)} of the sites was swept")
    passing = in_range & (evidence.low >= settings.threshold)
    good = passing & _eligible(evidence, settings)
    if good.any():
        return _picked(evidence, good, in_range, settings)
    if passing.any():
        best = _strongest(evidence, passing & (evidence.sizes == evidence.sizes[passing].min()))
        reason = (
            f"{_named(evidence, best)} removes the attribute, but with it {evidence.damage[best]:.0%} of the content"
        )
        return Verdict("damaging", reason, best)
    return _not_small(evidence, in_range, settings, complements_done)


def _unfit(evidence: Evidence, settings: LocalizeSettings) -> Verdict | None:
    """Judges tables in which no window can be judged."""
    pairs, kept = evidence.paired.size, int(evidence.paired.sum())
    if kept < pairs * (1 - MISSING_SHARE):
        return Verdict("incomplete", f"{pairs - kept} of {pairs} prompt-seed pairs lack a valid clean or donor image")
    if not evidence.complete.all():
        short = int((~evidence.complete).sum())
        return Verdict(
            "incomplete",
            f"{short} of {len(evidence.complete)} windows lack more than {MISSING_SHARE:.0%} of their cells",
        )
    if evidence.ratios is not None:
        return None
    clean, full = float(evidence.clean.value[0]), float(evidence.full.value[0])
    if evidence.clean.high(settings.confidence)[0] <= 0:
        return Verdict(
            "absent", f"the clean images look more like the donor text than like the attribute (margin {clean:.3f})"
        )
    return Verdict(
        "no_effect", f"even the donor prompt outright changes the margin by no more than noise ({full:.3f} cosine)"
    )


def _picked(evidence: Evidence, good: Bools, in_range: Bools, settings: LocalizeSettings) -> Verdict:
    """Picks among windows that pass at the smallest size, and looks for others."""
    assert evidence.ratios is not None
    size = evidence.sizes[good].min()
    strongest = _strongest(evidence, good & (evidence.sizes == size))
    peers = np.flatnonzero((evidence.sizes == size) & _eligible(evidence, settings) & evidence.settled)
    gap = evidence.ratios.difference(strongest, peers)
    tied = peers[gap.value <= special.stdtrit(gap.free, (1 + settings.confidence) / 2) * gap.error]
    damage = np.nan_to_num(evidence.damage)
    best = min((int(i) for i in tied if good[i]), key=lambda i: (damage[i], i))
    window = evidence.table.windows[best]
    wants = () if window in evidence.complement_columns() else (window,)
    rivals = good & in_range & evidence.disjoint(window)
    removes = f"{_named(evidence, best)} removes at least {evidence.low[best]:.0%} of the attribute"
    ties = tuple(int(i) for i in tied)
    if rivals.any():
        rival = _strongest(evidence, rivals & (evidence.sizes == evidence.sizes[rivals].min()))
        return Verdict("multiple", f"{removes}, and so does {_named(evidence, rival)}", best, ties, wants)
    return Verdict("localized", f"{removes}, and no smaller or separate window was shown to", best, ties, wants)


def _not_small(evidence: Evidence, in_range: Bools, settings: LocalizeSettings, complements_done: bool) -> Verdict:
    """Judges tables in which no window passes."""
    best = _strongest(evidence, in_range)
    largest, swept = settings.largest(evidence.table.n_sites), int(evidence.sizes[in_range].max())
    if swept < largest:
        missing = f"sizes up to {largest} are in range (max_share) but were not swept"
        return Verdict("inconclusive", f"no window of up to {swept} sites passes; {missing}", best)
    above = int((in_range & (evidence.high >= settings.threshold)).sum())
    if above:
        reason = (
            f"no window is shown to reach {settings.threshold:.0%}, but {above} may: more prompts or seeds would tell"
        )
        return Verdict("inconclusive", reason, best)
    wants = (
        ()
        if complements_done
        else tuple(
            window
            for window in shortlist(evidence, [evidence.table.windows[i] for i in np.flatnonzero(in_range)])
            if window not in evidence.complement_columns()
        )
    )
    sufficient = _sufficient(evidence, settings)
    if sufficient is not None:
        reason = (
            f"{_named(evidence, sufficient)} alone keeps most of the attribute, and so do the other sites without it"
        )
        return Verdict("redundant", reason, sufficient, complements=wants)
    reason = f"no window of up to {largest} sites reaches {settings.threshold:.0%} of the full effect"
    if wants:
        reason += "; whether some suffice by themselves is open until their complements are run"
    return Verdict("distributed", reason, best, complements=wants)


def _sufficient(evidence: Evidence, settings: LocalizeSettings) -> int | None:
    """The window that best keeps the attribute alone, among those without which it is kept too.

    Both at once is what redundancy means: two separate places, either of which will do. An effect that merely adds up
    over sites never passes: what a window keeps alone is then what is lost without it.
    """
    assert evidence.ratios is not None
    columns = evidence.complement_columns()
    index = np.array(list(columns.values()), dtype=np.intp)
    lost = dict(zip(columns, evidence.ratios.simultaneous_high(settings.confidence, index), strict=True))
    eligible = _eligible(evidence, settings)
    keeps = {
        i: float(lost[window])
        for i, window in enumerate(evidence.table.windows)
        if window in lost and eligible[i] and lost[window] < PREVAILS and evidence.high[i] < PREVAILS
    }
    return min(keeps, key=lambda i: (keeps[i], i)) if keeps else None


def report(
    evidence: Evidence,
    verdict: Verdict,
    settings: LocalizeSettings,
    site_names: Sequence[str],
    localizer: str,
    wants: tuple[Request, ...],
) -> Localization:
    """Puts a verdict into the form of a result.

    Args:
        evidence: what was judged.
        verdict: of it.
        settings: the ``localize:`` block.
        site_names: the model's sites in execution order, or none.
        localizer: its key.
        wants: see `loco_core.localizers.Localization`.
    """
    table, best = evidence.table, verdict.best
    window = None if best is None else table.windows[best]
    picked = window if verdict.outcome == "localized" else None
    effect, half_width = _reported_effect(evidence, verdict, settings)
    runner_up = _runner_up(evidence, best)
    may = (evidence.high >= settings.threshold) & (evidence.sizes <= settings.largest(table.n_sites))
    n_prompts, n_seeds = int(evidence.paired.any(axis=1).sum()), int(evidence.paired.any(axis=0).sum())
    return Localization(
        model=table.model,
        attribute=table.attribute,
        attribute_kind=table.attribute_kind,
        mode=table.mode,
        localizer=localizer,
        outcome=verdict.outcome,
        window_start=picked.start if picked else None,
        window_size=picked.size if picked else None,
        best_start=window.start if window else None,
        best_size=window.size if window else None,
        site_names=tuple(site_names[i] for i in picked.sites) if picked and site_names else (),
        relative_depth=relative_depth(picked, table.n_sites) if picked else None,
        effect=effect,
        ci_low=None if effect is None else finite(effect - half_width),
        ci_high=None if effect is None else finite(effect + half_width),
        runner_up_start=None if runner_up is None else table.windows[runner_up].start,
        runner_up_effect=None if runner_up is None else finite(evidence.effect[runner_up]),
        tie_set=tuple(table.windows[i].start for i in verdict.ties),
        sufficiency=_sufficiency(evidence, window),
        damage=None if best is None else finite(evidence.damage[best]),
        all_sites_effect=evidence.all_sites_effect(),
        threshold=settings.threshold,
        n_prompts=n_prompts,
        n_seeds=n_seeds,
        cells=table.cells,
        exploratory=n_prompts < FEW_PROMPTS or n_seeds < FEW_SEEDS,
        reason=verdict.reason,
        possible_size=int(evidence.sizes[may].min()) if may.any() else None,
        effects=_effects(evidence, verdict.ties, settings),
        wants=wants,
    )


def _reported_effect(evidence: Evidence, verdict: Verdict, settings: LocalizeSettings) -> tuple[float | None, float]:
    """Cross-fitted effect of the best window among its peers, and half the width of its two-sided interval."""
    best = verdict.best
    if best is None or evidence.ratios is None:
        return None, 0.0
    eligible = _eligible(evidence, settings)
    peers = (evidence.sizes == evidence.sizes[best]) & evidence.settled & (eligible if eligible[best] else True)
    if verdict.outcome == "redundant":
        # Not picked for its effect, so there is nothing to cross-fit.
        peers = np.arange(len(evidence.sizes)) == best
    effect = evidence.cross_fitted(peers, settings) if evidence.settled[best] else None
    return (finite(evidence.effect[best]) if effect is None else effect), float(_half_widths(evidence, settings)[best])


def _runner_up(evidence: Evidence, best: int | None) -> int | None:
    if best is None:
        return None
    window = evidence.table.windows[best]
    others = evidence.disjoint(window) & (evidence.sizes == window.size)
    return _strongest(evidence, others) if others.any() else None


def _sufficiency(evidence: Evidence, window: Window | None) -> float | None:
    column = None if window is None else evidence.complement_columns().get(window)
    return None if column is None or evidence.ratios is None else finite(1 - evidence.ratios.value[column])


def _effects(evidence: Evidence, ties: tuple[int, ...], settings: LocalizeSettings) -> tuple[Effect, ...]:
    table, eligible, half = evidence.table, _eligible(evidence, settings), _half_widths(evidence, settings)
    return tuple(
        Effect(
            model=table.model,
            attribute=table.attribute,
            window_start=window.start,
            window_size=window.size,
            effect=finite(evidence.effect[i]),
            ci_low=finite(evidence.effect[i] - half[i]),
            ci_high=finite(evidence.effect[i] + half[i]),
            simultaneous_low=finite(evidence.low[i]),
            damage=finite(evidence.damage[i]),
            eligible=bool(eligible[i]),
            in_tie_set=i in ties,
            n_prompts=int(evidence.prompts[i]),
            n_seeds=int(evidence.seeds[i]),
            flip_rate=finite(evidence.flip_rate[i]),
        )
        for i, window in enumerate(table.windows)
    )


def _half_widths(evidence: Evidence, settings: LocalizeSettings) -> Floats:
    """Half the width of every window's own two-sided interval."""
    count = len(evidence.table.windows)
    if evidence.ratios is None:
        return np.full(count, np.nan)
    quantile = special.stdtrit(evidence.ratios.free, (1 + settings.confidence) / 2)
    return np.asarray((quantile * evidence.ratios.error)[:count], dtype=np.float64)


def _eligible(evidence: Evidence, settings: LocalizeSettings) -> Bools:
    return np.nan_to_num(evidence.damage) <= settings.damage_share


def _strongest(evidence: Evidence, among: Bools) -> int:
    return int(np.where(among, np.nan_to_num(evidence.effect), -np.inf).argmax())


def _named(evidence: Evidence, column: int) -> str:
    window = evidence.table.windows[column]
    if window.size == 1:
        return f"site {window.start}"
    return f"the window of sites {window.start}-{window.start + window.size - 1}"


def shortlist(evidence: Evidence, windows: Sequence[Window]) -> tuple[Window, ...]:
    """Returns disjoint windows of ``windows``, the largest and strongest first.

    Whether one of two places will do shows in what swapping all but one of them does; these windows cover the model.
    """
    effect = dict(zip(evidence.table.windows, np.nan_to_num(evidence.effect), strict=True))
    ordered = sorted(windows, key=lambda window: (-window.size, -effect.get(window, 0.0), window.start))
    return disjoint_cover(ordered)


def _share(settings: LocalizeSettings) -> str:
    return f"{settings.max_share:.0%}"
