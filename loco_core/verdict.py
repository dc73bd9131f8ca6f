"""What evidence amounts to: the rules from bounds to an outcome, and the outcome as a `Localization`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import special

from loco_core.evidence import (
    LEAST_FULL_EFFECT,
    LEAST_SEEDS,
    MISSING_SHARE,
    PREVAILS,
    Evidence,
    disjoint_cover,
    finite,
    negligible,
)
from loco_core.localizers import About, Effect, Localization, LocalizeSettings, Outcome, Request, relative_depth
from loco_core.power import pairs_to_pass
from loco_core.statistics import Bools
from loco_core.types import Window

FEW_PROMPTS, FEW_SEEDS = 8, 4
MOST = 0.5
"""Share of prompts like these that an exact bound must show for a window to be localized in most of them."""


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

    1. ``incomplete``: more than a fifth of the pairs lack a clean or a donor image.
    2. Where no full effect is established: ``inconclusive``, unless it is shown to be next to nothing (see
       `loco_core.evidence.negligible`). Then ``absent`` if the clean images are on the donor's side of the margin
       (upper bound of their mean below 0), else ``no_effect``. Both are needed: a text pair may put every image on
       one side, and then only the donor images tell whether the attribute is there.
    3. A window passes if its simultaneous lower bound reaches the threshold; the smallest size at which a window passes
       without too much damage wins: ``localized``, or ``multiple`` if a window that shares no site with it passes
       too. If all that pass do damage: ``damaging``.
    4. ``incomplete``: none passes, and some in range lack more than a fifth of their cells. Such windows are not
       judged, and keep no other from passing.
    5. ``inconclusive``: none passes, but some upper bound reaches the threshold, or not all windows of the largest size
       in range were swept, or swapping all sites does not reach it either.
    6. ``redundant``: none is necessary, but the sites of some window alone keep most of the attribute, and so do all
       others without them.
    7. ``distributed``: none of these; no window in range holds the attribute.

    All of it is about the prompts of the sweep. Only where an exact bound shows that a window holds in more than half
    of prompts like these is it said of them, see `about`.

    Args:
        evidence: of all windows.
        settings: the ``localize:`` block.
        complements_done: no further complements are to be wanted for the sake of ``redundant``.
    """
    unfit = _unfit(evidence, settings)
    if unfit is not None:
        return unfit
    # A window of all sites is what the donor does outright.
    in_range = (evidence.sizes <= settings.largest(evidence.table.n_sites)) & (evidence.sizes < evidence.table.n_sites)
    if not in_range.any():
        return Verdict("inconclusive", f"no window of at most {_share(settings)} of the sites was swept")
    passing = in_range & (evidence.low >= settings.threshold)
    good = passing & _eligible(evidence, settings)
    if good.any():
        return _picked(evidence, good, in_range, settings)
    if passing.any():
        best = _strongest(evidence, passing & (evidence.sizes == evidence.sizes[passing].min()))
        reason = (
            f"{_named(evidence, best)} removes the attribute, but with it {evidence.damage[best]:.1%} of the content, "
            f"more than {settings.damage_share:.0%}"
        )
        return Verdict("damaging", reason, best)
    return _not_small(evidence, in_range, settings, complements_done)


def _unfit(evidence: Evidence, settings: LocalizeSettings) -> Verdict | None:
    """Judges tables in which no window can be judged."""
    pairs, kept = evidence.paired.size, int(evidence.paired.sum())
    if kept < pairs * (1 - MISSING_SHARE):
        return Verdict("incomplete", f"{pairs - kept} of {pairs} prompt-seed pairs lack a valid clean or donor image")
    if evidence.ratios is not None:
        if evidence.complete.any():
            return None
        return Verdict("incomplete", f"every window lacks more than {MISSING_SHARE:.0%} of its cells")
    clean, full = float(evidence.clean.value[0]), float(evidence.full.value[0])
    low, high = (float(side(settings.confidence)[0]) for side in (evidence.full.low, evidence.full.high))
    if not negligible(evidence.full, evidence.clean, settings.confidence):
        bounds = f", bounds {low:.3f} to {high:.3f}" if np.isfinite(high - low) else ""
        seen = f"what the donor prompt outright does is not established ({full:.3f} cosine{bounds})"
        return Verdict("inconclusive", f"{seen}: {_seeds_to_establish(evidence, settings)}")
    if evidence.clean.high(settings.confidence)[0] < 0:
        reason = f"the clean images look more like the donor text than like the attribute (margin {clean:.3f})"
        return Verdict("absent", f"{reason}, and no less so than the donor's (at most {high:.3f} more)")
    reason = f"even the donor prompt outright changes the margin by next to nothing ({full:.3f} cosine"
    return Verdict("no_effect", f"{reason}, at most {high:.3f})")


def _seeds_to_establish(evidence: Evidence, settings: LocalizeSettings) -> str:
    """Says how many seeds would show a full effect of the size that is seen."""
    n_prompts, n_seeds = evidence.paired.shape
    full, error = float(evidence.full.value[0]), float(evidence.full.error[0])
    if n_seeds < 2:
        return "one seed tells nothing of how seeds differ; take 4 or more"
    if evidence.full.high(settings.confidence)[0] < 0:
        return "its images are nearer score_text than the clean ones; are score_text and donor_text swapped?"
    above = full - max(full / 2, LEAST_FULL_EFFECT)
    if above <= 0:
        return "its images hardly lose the attribute; look at them before more are drawn"
    seeds = math.ceil(n_seeds * (special.stdtrit(evidence.full.free[0], settings.confidence) * error / above) ** 2)
    return (
        f"about {max(seeds, n_seeds + 1, 4)} seeds of {_counted(n_prompts, 'prompt')} would tell, if it is as it looks"
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
    removes += f" in {_these(evidence)} ({_prompts_like_these(evidence, best, settings)})"
    ties = tuple(int(i) for i in tied)
    if rivals.any():
        rival = _strongest(evidence, rivals & (evidence.sizes == evidence.sizes[rivals].min()))
        return Verdict("multiple", f"{removes}, and so does {_named(evidence, rival)}", best, ties, wants)
    unjudged = int((in_range & ~evidence.complete).sum())
    rest = f"; {_counted(unjudged, 'window')} with too few cells not judged" if unjudged else ""
    return Verdict(
        "localized", f"{removes}; no smaller or separate window that was swept was shown to{rest}", best, ties, wants
    )


def _these(evidence: Evidence) -> str:
    count = int(evidence.paired.any(axis=1).sum())
    return "this prompt" if count == 1 else f"these {count} prompts, on average"


def _prompts_like_these(evidence: Evidence, best: int, settings: LocalizeSettings) -> str:
    """Says in how many prompts a window holds, and what that shows of prompts like these."""
    held, count = int(evidence.holds_in[best]), int(evidence.paired.any(axis=1).sum())
    seen = f"it holds in {held} of {_counted(count, 'prompt')}"
    if count == 1:
        return f"{seen}, which shows nothing of others"
    shown = f"at least {evidence.bounds.prompt_share_low[best]:.0%} of prompts like these"
    return f"{seen}, which shows {shown} at {100 * settings.confidence:g}% confidence"


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}" + ("" if count == 1 else "s")


def _not_small(evidence: Evidence, in_range: Bools, settings: LocalizeSettings, complements_done: bool) -> Verdict:
    """Judges tables in which no window passes."""
    best = _strongest(evidence, in_range)
    sites = evidence.table.n_sites
    largest = min(settings.largest(sites), sites - 1)
    unswept = {Window(start, largest) for start in range(sites - largest + 1)} - set(evidence.table.windows)
    everywhere = evidence.all_sites_high(settings.confidence)
    if everywhere is not None and everywhere < settings.threshold:
        little = f"swapping all sites so removes {evidence.all_sites_effect():.0%} of what the donor prompt does"
        return Verdict("inconclusive", f"{little}: what is swapped does too little to tell where it is held", best)
    unjudged = int((in_range & ~evidence.complete).sum())
    if unjudged:
        lack = f"{unjudged} of {int(in_range.sum())} windows lack more than {MISSING_SHARE:.0%} of their cells"
        return Verdict("incomplete", f"{lack}, and no other is shown to reach {settings.threshold:.0%}", best)
    above = int((in_range & (evidence.high >= settings.threshold)).sum())
    if above:
        reason = f"no window is shown to reach {settings.threshold:.0%}, but {above} may: "
        return Verdict("inconclusive", reason + _more(evidence, best, settings), best)
    if unswept:
        count = f"{len(unswept)} of the {sites - largest + 1} windows of {largest} sites, the most in range (max_share)"
        return Verdict("inconclusive", f"no window that was swept reaches it, but {count}, were not swept", best)
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


def _more(evidence: Evidence, best: int, settings: LocalizeSettings) -> str:
    """Says how many pairs of prompt and seed would show a window as strong as the strongest, if it is as it looks."""
    pairs = int(evidence.paired.sum())
    if settings.threshold >= 1:
        return "no number of pictures shows all of it; 0.8 is the default"
    if evidence.paired.shape[1] < LEAST_SEEDS:
        return f"it takes {LEAST_SEEDS} seeds or more"
    needed = pairs_to_pass(evidence, best, settings)
    if needed is None:
        return f"{_named(evidence, best)} looks weaker than that; more prompts or seeds may show that it is"
    return f"about {needed} pairs of prompt and seed would show {_named(evidence, best)}, there are {pairs}"


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
    effect = _reported_effect(evidence, verdict, settings)
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
        ci_low=None if best is None else finite(evidence.bounds.joint_low[best]),
        ci_high=None if best is None else finite(evidence.bounds.joint_high[best]),
        runner_up_start=None if runner_up is None else table.windows[runner_up].start,
        runner_up_effect=None if runner_up is None else finite(evidence.effect[runner_up]),
        tie_set=tuple(table.windows[i].start for i in verdict.ties),
        sufficiency=_sufficiency(evidence, window),
        damage=None if best is None else finite(evidence.damage[best]),
        all_sites_effect=evidence.all_sites_effect(),
        threshold=settings.threshold,
        about=about(evidence, verdict),
        holds_in=None if best is None or evidence.ratios is None else int(evidence.holds_in[best]),
        prompt_share_low=None if best is None else finite(evidence.bounds.prompt_share_low[best]),
        n_prompts=n_prompts,
        n_seeds=n_seeds,
        cells=table.cells,
        exploratory=exploratory(n_prompts, n_seeds),
        reason=verdict.reason,
        possible_size=int(evidence.sizes[may].min()) if may.any() else None,
        effects=_effects(evidence, verdict.ties, settings),
        wants=wants,
    )


def exploratory(n_prompts: int, n_seeds: int) -> bool:
    """Tells whether there are too few prompts or seeds to speak of more than a first look."""
    return n_prompts < FEW_PROMPTS or n_seeds < FEW_SEEDS


def about(evidence: Evidence, verdict: Verdict) -> About:
    """Says which population a verdict is about; see `loco_core.localizers.About`."""
    share, best = evidence.bounds.prompt_share_low, verdict.best
    # Of several places one has this bound here, the others not.
    if verdict.outcome == "localized" and best is not None and share[best] > MOST:
        return "prompts_like_these"
    return "these_prompts" if evidence.paired.shape[1] > 1 else "these_pictures"


def _reported_effect(evidence: Evidence, verdict: Verdict, settings: LocalizeSettings) -> float | None:
    """Effect of the window that the verdict speaks of, cross-fitted where it was picked for its effect."""
    best = verdict.best
    if best is None or evidence.ratios is None:
        return None
    plain = finite(evidence.effect[best])
    if verdict.outcome == "redundant" or not evidence.settled[best]:
        return plain
    eligible = _eligible(evidence, settings)
    in_range = evidence.sizes <= settings.largest(evidence.table.n_sites)
    candidates = in_range & evidence.complete & evidence.settled & (eligible if eligible[best] else True)
    fitted = evidence.cross_fitted(best, candidates, settings)
    return plain if fitted is None else fitted


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
    table, eligible = evidence.table, _eligible(evidence, settings)
    return tuple(
        Effect(
            model=table.model,
            attribute=table.attribute,
            window_start=window.start,
            window_size=window.size,
            effect=finite(evidence.effect[i]),
            ci_low=finite(evidence.bounds.own_low[i]),
            ci_high=finite(evidence.bounds.own_high[i]),
            simultaneous_low=finite(evidence.low[i]),
            holds_in=None if evidence.ratios is None else int(evidence.holds_in[i]),
            prompt_share_low=finite(evidence.bounds.prompt_share_low[i]),
            damage=finite(evidence.damage[i]),
            eligible=bool(eligible[i]),
            in_tie_set=i in ties,
            n_prompts=int(evidence.prompts[i]),
            n_seeds=int(evidence.seeds[i]),
            flip_rate=finite(evidence.flip_rate[i]),
        )
        for i, window in enumerate(table.windows)
    )


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
