"""What estimates amount to: the rules from bounds to an outcome, and the outcome as a `Localization`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import special

from loco_core.localization.base import About, Effect, Localization, LocalizeSettings, Outcome, Request
from loco_core.localization.bounds import LEAST_SEEDS, PREVAILS
from loco_core.localization.estimates import (
    LEAST_FULL_EFFECT,
    MISSING_SHARE,
    WindowEstimates,
    disjoint_cover,
    finite,
    negligible,
)
from loco_core.localization.power import least_pairs, seeds_to_tell
from loco_core.statistics import Bools
from loco_core.types import Window

MOST = 0.5
"""Share of prompts like these that an exact bound must show for a window to be localized in most of them."""


@dataclass(frozen=True)
class Decision:
    """An outcome with its reason.

    Attributes:
        outcome: one of `loco_core.localization.base.Outcome`.
        reason: the reason in one sentence.
        best: column of the window that the outcome speaks of.
        ties: columns that are not told apart from it.
        complements: windows whose complements would add to the decision and were not run.
    """

    outcome: Outcome
    reason: str
    best: int | None = None
    ties: tuple[int, ...] = ()
    complements: tuple[Window, ...] = ()


def decide(estimates: WindowEstimates, settings: LocalizeSettings, *, complements_done: bool = False) -> Decision:
    """Decides by these rules, in this order.

    1. ``incomplete``: more than a fifth of the pairs lack a clean or a donor image.
    2. Where no full effect is established: ``inconclusive``, unless it is shown to be next to nothing (see
       `loco_core.localization.estimates.negligible`). Then ``absent`` if the clean images are on the donor's side of
       the margin (upper bound of their mean below 0), else ``no_effect``. Both are needed: a text pair may put every
       image on one side, and then only the donor images tell whether the attribute is there.
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
        estimates: estimates of all windows.
        settings: the ``localize:`` block.
        complements_done: no further complements are to be wanted for the sake of ``redundant``.
    """
    unfit = _unfit(estimates, settings)
    if unfit is not None:
        return unfit
    # A window of all sites is what the donor prompt does.
    n_sites = estimates.table.n_sites
    in_range = (estimates.sizes <= settings.largest(n_sites)) & (estimates.sizes < n_sites)
    if not in_range.any():
        return Decision("inconclusive", f"no window of at most {_share(settings)} of the sites was swept")
    passing = in_range & (estimates.low >= settings.threshold)
    good = passing & _eligible(estimates, settings)
    if good.any():
        return _picked(estimates, good, in_range, settings)
    if passing.any():
        best = _strongest(estimates, passing & (estimates.sizes == estimates.sizes[passing].min()))
        reason = (
            f"{_named(estimates, best)} removes the attribute, but with it {estimates.damage[best]:.1%} of the "
            f"content, more than {settings.damage_share:.0%}"
        )
        return Decision("damaging", reason, best)
    return _not_small(estimates, in_range, settings, complements_done)


def _unfit(estimates: WindowEstimates, settings: LocalizeSettings) -> Decision | None:
    """Decides on tables in which no window can be judged; None where windows can."""
    pairs, kept = estimates.paired.size, int(estimates.paired.sum())
    if kept < pairs * (1 - MISSING_SHARE):
        return Decision("incomplete", f"{pairs - kept} of {pairs} prompt-seed pairs lack a valid clean or donor image")
    if estimates.ratios is not None:
        if estimates.complete.any():
            return None
        return Decision("incomplete", f"every window lacks more than {MISSING_SHARE:.0%} of its cells")
    clean, full = float(estimates.clean.value[0]), float(estimates.full.value[0])
    low, high = (float(side(settings.confidence)[0]) for side in (estimates.full.low, estimates.full.high))
    if not negligible(estimates.full, estimates.clean, settings.confidence):
        bounds = f", bounds {low:.3f} to {high:.3f}" if np.isfinite(high - low) else ""
        seen = f"what {estimates.table.words.whole} does is not established ({full:.3f} cosine{bounds})"
        return Decision("inconclusive", f"{seen}: {_seeds_to_establish(estimates, settings)}")
    if estimates.clean.high(settings.confidence)[0] < 0:
        seen = "the clean images look more like the donor text, or a sibling's, than like the attribute"
        return Decision(
            "absent", f"{seen} (margin {clean:.3f}), and no less so than the donor's (at most {high:.3f} more)"
        )
    reason = f"even {estimates.table.words.whole} changes the margin by next to nothing ({full:.3f} cosine"
    return Decision("no_effect", f"{reason}, at most {high:.3f})")


def _seeds_to_establish(estimates: WindowEstimates, settings: LocalizeSettings) -> str:
    """Says how many seeds would show a full effect of the size that is seen."""
    n_prompts, n_seeds = estimates.paired.shape
    full, error = float(estimates.full.value[0]), float(estimates.full.error[0])
    if n_seeds < 2:
        return "one seed tells nothing of how seeds differ; take 4 or more"
    if estimates.full.high(settings.confidence)[0] < 0:
        return "its images are nearer score_text than the clean ones; are score_text and donor_text swapped?"
    above = full - max(full / 2, LEAST_FULL_EFFECT)
    if above <= 0:
        return "its images hardly lose the attribute; look at them before more are drawn"
    seeds = math.ceil(n_seeds * (special.stdtrit(estimates.full.free[0], settings.confidence) * error / above) ** 2)
    return (
        f"about {max(seeds, n_seeds + 1, 4)} seeds of {_counted(n_prompts, 'prompt')} would tell, if it is as it looks"
    )


def _picked(estimates: WindowEstimates, good: Bools, in_range: Bools, settings: LocalizeSettings) -> Decision:
    """Picks among windows that pass at the smallest size, and looks for others."""
    assert estimates.ratios is not None
    size = estimates.sizes[good].min()
    strongest = _strongest(estimates, good & (estimates.sizes == size))
    peers = np.flatnonzero((estimates.sizes == size) & _eligible(estimates, settings) & estimates.settled)
    gap = estimates.ratios.difference(strongest, peers)
    tied = peers[gap.value <= special.stdtrit(gap.free, (1 + settings.confidence) / 2) * gap.error]
    damage = np.nan_to_num(estimates.damage)
    best = min((int(i) for i in tied if good[i]), key=lambda i: (damage[i], i))
    window = estimates.table.windows[best]
    wants = () if window in estimates.complement_columns() else (window,)
    rivals = good & in_range & estimates.disjoint(window)
    removes = f"{_named(estimates, best)} removes at least {estimates.low[best]:.0%} of the attribute"
    removes += f" in {_these(estimates)} ({_prompts_like_these(estimates, best, settings)})"
    ties = tuple(int(i) for i in tied)
    if rivals.any():
        rival = _strongest(estimates, rivals & (estimates.sizes == estimates.sizes[rivals].min()))
        return Decision("multiple", f"{removes}, and so does {_named(estimates, rival)}", best, ties, wants)
    unjudged = int((in_range & ~estimates.complete).sum())
    rest = f"; {_counted(unjudged, 'window')} with too few cells not judged" if unjudged else ""
    return Decision(
        "localized", f"{removes}; no smaller or separate window that was swept was shown to{rest}", best, ties, wants
    )


def _these(estimates: WindowEstimates) -> str:
    count = int(estimates.paired.any(axis=1).sum())
    return "this prompt" if count == 1 else f"these {count} prompts, on average"


def _prompts_like_these(estimates: WindowEstimates, best: int, settings: LocalizeSettings) -> str:
    """Says in how many prompts a window holds, and what that shows of prompts like these."""
    held, count = int(estimates.holds_in[best]), int(estimates.paired.any(axis=1).sum())
    seen = f"it holds in {held} of {_counted(count, 'prompt')}"
    if count == 1:
        return f"{seen}, which shows nothing of others"
    shown = f"at least {estimates.bounds.prompt_share_low[best]:.0%} of prompts like these"
    return f"{seen}, which shows {shown} at {100 * settings.confidence:g}% confidence"


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}" + ("" if count == 1 else "s")


def _not_small(
    estimates: WindowEstimates, in_range: Bools, settings: LocalizeSettings, complements_done: bool
) -> Decision:
    """Judges tables in which no window passes."""
    best = _strongest(estimates, in_range)
    sites = estimates.table.n_sites
    largest = min(settings.largest(sites), sites - 1)
    unswept = {Window(start, largest) for start in range(sites - largest + 1)} - set(estimates.table.windows)
    everywhere = estimates.all_sites_high(settings.confidence)
    if everywhere is not None and everywhere < settings.threshold:
        little = (
            f"swapping all sites so removes {estimates.all_sites_effect():.0%} of what {estimates.table.words.whole}"
        )
        return Decision(
            "inconclusive", f"{little} does: what is swapped does too little to tell where it is held", best
        )
    unjudged = int((in_range & ~estimates.complete).sum())
    if unjudged:
        lack = f"{unjudged} of {int(in_range.sum())} windows lack more than {MISSING_SHARE:.0%} of their cells"
        return Decision("incomplete", f"{lack}, and no other is shown to reach {settings.threshold:.0%}", best)
    may = [int(column) for column in np.flatnonzero(in_range & (estimates.high >= settings.threshold))]
    count = f"{len(unswept)} of the {sites - largest + 1} windows of {largest} sites, the most in range (max_share)"
    if may:
        reason = f"no window is shown to reach {settings.threshold:.0%}, but {len(may)} may: "
        reason += _more(estimates, best, may, settings)
        if unswept:
            reason += f"; that it is distributed cannot be shown, since {count}, were not swept"
        return Decision("inconclusive", reason, best)
    if unswept:
        return Decision("inconclusive", f"no window that was swept reaches it, but {count}, were not swept", best)
    wants = (
        ()
        if complements_done
        else tuple(
            window
            for window in shortlist(estimates, [estimates.table.windows[i] for i in np.flatnonzero(in_range)])
            if window not in estimates.complement_columns()
        )
    )
    sufficient = _sufficient(estimates, settings)
    if sufficient is not None:
        reason = (
            f"{_named(estimates, sufficient)} alone keeps most of the attribute, and so do the other sites without it"
        )
        return Decision("redundant", reason, sufficient, complements=wants)
    reason = f"no window of up to {largest} sites reaches {settings.threshold:.0%} of the full effect"
    if wants:
        reason += "; whether some suffice by themselves is open until their complements are run"
    return Decision("distributed", reason, best, complements=wants)


def _more(estimates: WindowEstimates, best: int, may: Sequence[int], settings: LocalizeSettings) -> str:
    """Says how many seeds would tell whether one of the windows that may pass does, if all is as it looks."""
    if settings.threshold >= 1:
        return "no number of pictures shows all of it; 0.8 is the default"
    n_prompts, seeds = (int(estimates.paired.any(axis=axis).sum()) for axis in (1, 0))
    prompts = _counted(n_prompts, "prompt")
    if seeds < LEAST_SEEDS:
        least = least_pairs(settings.threshold, settings.confidence, max(estimates.family, 1)) or 0
        enough = max(LEAST_SEEDS, math.ceil(least / n_prompts))
        return f"it takes {enough} seeds of {prompts} or more, there are {seeds}"
    # Where no effect is above the threshold, the question is settled when every window that may pass is shown not to.
    strong = bool(estimates.effect[best] > settings.threshold)
    needed = [seeds_to_tell(estimates, column, settings) for column in ([best] if strong else may)]
    known = [count for count in needed if count is not None]
    whether = f"would tell whether {_named(estimates, best) if strong else 'any'} does, if all is as it looks"
    if len(known) < len(needed):
        return f"no number of seeds of {prompts} {whether}"
    most = max(known)
    return f"about {_counted(most - seeds, 'more seed')} of {prompts} ({most} in place of {seeds}) {whether}"


def _sufficient(estimates: WindowEstimates, settings: LocalizeSettings) -> int | None:
    """The window that best keeps the attribute alone, among those without which it is kept too.

    Both at once is what redundancy means: two separate places, either of which will do. An effect that merely adds up
    over sites never passes: what a window keeps alone is then what is lost without it.
    """
    assert estimates.ratios is not None
    columns = estimates.complement_columns()
    index = np.array(list(columns.values()), dtype=np.intp)
    lost = dict(zip(columns, estimates.ratios.simultaneous_high(settings.confidence, index), strict=True))
    eligible = _eligible(estimates, settings)
    keeps = {
        i: float(lost[window])
        for i, window in enumerate(estimates.table.windows)
        if window in lost and eligible[i] and lost[window] < PREVAILS and estimates.high[i] < PREVAILS
    }
    return min(keeps, key=lambda i: (keeps[i], i)) if keeps else None


def report(
    estimates: WindowEstimates, decision: Decision, settings: LocalizeSettings, wants: tuple[Request, ...]
) -> Localization:
    """Puts a decision into the form of a result.

    Args:
        estimates: estimates that were decided on.
        decision: what was decided.
        settings: the ``localize:`` block.
        wants: cells that are wanted, as of `loco_core.localization.base.Localization`.
    """
    table, best, bounds = estimates.table, decision.best, estimates.bounds
    window = None if best is None else table.windows[best]
    runner_up = _runner_up(estimates, best)
    may = (estimates.high >= settings.threshold) & (estimates.sizes <= settings.largest(table.n_sites))
    return Localization.of(
        table,
        decision.outcome,
        decision.reason,
        best=window,
        effects=_effects(estimates, decision.ties, settings),
        effect=_reported_effect(estimates, decision, settings),
        ci_low=None if best is None else finite(bounds.joint_low[best]),
        ci_high=None if best is None else finite(bounds.joint_high[best]),
        runner_up_start=None if runner_up is None else table.windows[runner_up].start,
        runner_up_effect=None if runner_up is None else finite(estimates.effect[runner_up]),
        tie_set=tuple(table.windows[i].start for i in decision.ties),
        sufficiency=_sufficiency(estimates, window),
        all_sites_effect=estimates.all_sites_effect(),
        about=about(estimates, decision),
        prompt_share_low=None if best is None else finite(bounds.prompt_share_low[best]),
        n_prompts=int(estimates.paired.any(axis=1).sum()),
        n_seeds=int(estimates.paired.any(axis=0).sum()),
        possible_size=int(estimates.sizes[may].min()) if may.any() else None,
        wants=wants,
    )


def about(estimates: WindowEstimates, decision: Decision) -> About:
    """Says which population a decision is about; see `loco_core.localization.base.About`."""
    share, best = estimates.bounds.prompt_share_low, decision.best
    # Of several places one has this bound here, the others not.
    if decision.outcome == "localized" and best is not None and share[best] > MOST:
        return "prompts_like_these"
    return "these_prompts" if estimates.paired.shape[1] > 1 else "these_pictures"


def _reported_effect(estimates: WindowEstimates, decision: Decision, settings: LocalizeSettings) -> float | None:
    """Effect of the window that the decision speaks of, cross-fitted where it was picked for its effect."""
    best = decision.best
    if best is None or estimates.ratios is None:
        return None
    plain = finite(estimates.effect[best])
    if decision.outcome == "redundant" or not estimates.settled[best]:
        return plain
    eligible = _eligible(estimates, settings)
    in_range = estimates.sizes <= settings.largest(estimates.table.n_sites)
    candidates = in_range & estimates.complete & estimates.settled & (eligible if eligible[best] else True)
    fitted = estimates.cross_fitted(best, candidates, settings)
    return plain if fitted is None else fitted


def _runner_up(estimates: WindowEstimates, best: int | None) -> int | None:
    if best is None:
        return None
    window = estimates.table.windows[best]
    others = estimates.disjoint(window) & (estimates.sizes == window.size)
    return _strongest(estimates, others) if others.any() else None


def _sufficiency(estimates: WindowEstimates, window: Window | None) -> float | None:
    column = None if window is None else estimates.complement_columns().get(window)
    return None if column is None or estimates.ratios is None else finite(1 - estimates.ratios.value[column])


def _effects(estimates: WindowEstimates, ties: tuple[int, ...], settings: LocalizeSettings) -> tuple[Effect, ...]:
    eligible, bounds = _eligible(estimates, settings), estimates.bounds
    return tuple(
        Effect(
            window.start,
            window.size,
            finite(estimates.effect[i]),
            finite(bounds.own_low[i]),
            finite(bounds.own_high[i]),
            finite(estimates.low[i]),
            damage=finite(estimates.damage[i]),
            eligible=bool(eligible[i]),
            in_tie_set=i in ties,
            n_prompts=int(estimates.prompts[i]),
            n_seeds=int(estimates.seeds[i]),
            flip_rate=finite(estimates.flip_rate[i]),
            holds_in=None if estimates.ratios is None else int(estimates.holds_in[i]),
            prompt_share_low=finite(bounds.prompt_share_low[i]),
        )
        for i, window in enumerate(estimates.table.windows)
    )


def _eligible(estimates: WindowEstimates, settings: LocalizeSettings) -> Bools:
    return np.nan_to_num(estimates.damage) <= settings.damage_share


def _strongest(estimates: WindowEstimates, among: Bools) -> int:
    return int(np.where(among, np.nan_to_num(estimates.effect), -np.inf).argmax())


def _named(estimates: WindowEstimates, column: int) -> str:
    window = estimates.table.windows[column]
    if window.size == 1:
        return f"site {window.start}"
    return f"the window of sites {window.start}-{window.start + window.size - 1}"


def shortlist(estimates: WindowEstimates, windows: Sequence[Window]) -> tuple[Window, ...]:
    """Returns disjoint windows of ``windows``, the largest and strongest first.

    Whether one of two places will do shows in what swapping all but one of them does; these windows cover the model.
    """
    effect = dict(zip(estimates.table.windows, np.nan_to_num(estimates.effect), strict=True))
    ordered = sorted(windows, key=lambda window: (-window.size, -effect.get(window, 0.0), window.start))
    return disjoint_cover(ordered)


def _share(settings: LocalizeSettings) -> str:
    return f"{settings.max_share:.0%}"
