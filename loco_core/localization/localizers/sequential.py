"""The answer of `window` from fewer images: large windows first, few prompts and seeds first, then only contenders.

An effect hardly shrinks when a window grows. So what a large window does not reach no window inside it reaches, and a
small window is run only where all large ones around it may still reach the threshold. The stopping rule is fixed
beforehand: interim analyses of a growing number of seeds of all prompts (`loco_core.localization.interim`), at each of
which windows whose simultaneous upper bound is below the threshold are dropped, at a share of the error that the
analysis may spend. Only at the last one, on all prompts and seeds, a window may pass, by lower bounds that hold for
every window of the grid, run or not: so do the binomial ones of shares of images and of prompts, which need no
spending, as they are looked at once.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Sequence
from dataclasses import replace

import numpy as np
import pyarrow as pa
from scipy import special

from loco_core.localization.base import Grid, Localization, LocalizeSettings, Request
from loco_core.localization.bounds import PREVAILS
from loco_core.localization.decision import Decision, decide, report, shortlist
from loco_core.localization.estimates import MISSING_SHARE, WindowEstimates, estimate_windows
from loco_core.localization.interim import InterimAnalysis, combined, interim_analyses
from loco_core.localization.score_table import ScoreTable, read_scores
from loco_core.statistics import likeness
from loco_core.types import Window

SHARE = "removed"
FUTILE, LASTING = 2.0, 3.0
"""By how many standard errors an estimate may still move up to pass, and down to be dropped. Wrong guesses cost a
localization, or call inconclusive what is distributed; they never make a window pass."""
PROMISING = 0.5
"""Share of the way from the threshold to passing at which windows inside are run."""
POOLED, POOLED_OF = 8, 16
"""Windows that are taken to a further analysis at least, if any is: so many, and one of so many. How much effects vary
is estimated from them. At 16 sites with four of them 94.4 % of 2,000 simulated tables ended as with the whole grid,
with eight 95.5 %, from 24.7 instead of 21.4 % of the images. At 70 sites, of 200 tables, with eight 186, with a
sixteenth (33) 190, from 8.6 instead of 6.2 %: within the error of so few, and what a tenth of the images allows."""


def begin(grid: Grid, settings: LocalizeSettings) -> tuple[Request, ...]:
    """Asks for what the first analysis takes: the windows that no other in range contains."""
    return _Search(None, grid, settings).begin()


def localize(
    scores: pa.Table, settings: LocalizeSettings, site_names: Sequence[str] = (), grid: Grid | None = None
) -> Localization:
    """Localizes one (model, attribute), or asks for more, by the rules of `loco_core.localization.decision.decide`.

    Only cells that it asked for, now or before, count: what else there is changes nothing.

    Args:
        scores: see `loco_core.localization.base.Localizer`.
        settings: the ``localize:`` block.
        site_names: the model's sites in execution order.
        grid: all that may be asked for; without it, what the scores hold.

    Raises:
        LocalizationError: columns or controls are missing, or rows do not belong together.
    """
    table = read_scores(scores, site_names)
    search = _Search(table, grid or _grid_of(table), settings)
    decision = search.run()
    if decision is None:
        waiting = Decision("incomplete", f"{search.open()} cells are to be run before it goes on")
        return report(estimate_windows(table, settings), waiting, settings, search.requests())
    found = report(search.estimates(), decision, settings, search.requests())
    return replace(found, possible_size=search.possible_size())


def _grid_of(table: ScoreTable) -> Grid:
    """Takes the prompts and seeds with most cells to be those that were taken first."""
    cells = table.swept.present
    prompts = sorted(range(len(table.prompts)), key=lambda i: (-int(cells[i].sum()), i))
    seeds = sorted(range(len(table.seeds)), key=lambda i: (-int(cells[:, i].sum()), i))
    return Grid(
        table.n_sites, table.windows, tuple(table.prompts[i] for i in prompts), tuple(table.seeds[i] for i in seeds)
    )


class _Search:
    """One search from its beginning; what was asked for, and what came of it."""

    def __init__(self, table: ScoreTable | None, grid: Grid, settings: LocalizeSettings) -> None:
        self._table, self._grid, self._settings = table, grid, settings
        self._analyses = interim_analyses(len(grid.prompts), len(grid.seeds), settings.screen)
        largest = settings.largest(grid.n_sites)
        self._in_range = [window for window in grid.windows if window.size <= largest]
        self._top = 0
        self._windows: dict[Window, int] = {}
        self._complements: dict[Window, int] = {}
        self._bounds: dict[Window, float] = {}
        """Upper bounds of windows at the last analysis of each."""
        self._dropped: set[Window] = set()
        self._alike: float | None = None
        self._seen: dict[Hashable, WindowEstimates] = {}

    def begin(self) -> tuple[Request, ...]:
        self._ask(self._outer(), 0)
        return self.requests()

    def requests(self) -> tuple[Request, ...]:
        """All that was asked for, in a fixed order."""
        top = self._analyses[self._top]
        found = [Request("clean", None, top.prompts, top.seeds)]
        for control, asked in (("window", self._windows), ("complement", self._complements)):
            for window in sorted(asked, key=_order):
                analysis = self._analyses[asked[window]]
                found.append(Request(control, window, analysis.prompts, analysis.seeds))  # type: ignore[arg-type]
        return tuple(found)

    def run(self) -> Decision | None:
        """Goes through all that is answered; None where an answer is missing."""
        for _ in self._steps():
            if self.open():
                return decide(self.estimates(), self._settings) if self._only_complements_open() else None
        decision = decide(self.estimates(), self._settings, complements_done=True)
        # What they add to the answer does not change it.
        self._ask(decision.complements, self._top, complement=True)
        return decision

    def _only_complements_open(self) -> bool:
        return bool(self._complements) and not self.open(complements=False)

    def open(self, *, complements: bool = True) -> int:
        """How many cells that were asked for are not there, if they are more than may be missing."""
        assert self._table is not None
        top, also = self._analyses[self._top], self._complements if complements else {}
        part = self._part(top, self._windows, also)
        absent = int((~part.clean.present).sum() + (~part.donor.present).sum())
        short = absent > 2 * MISSING_SHARE * top.pairs
        for images, asked in ((part.swept, self._windows), (part.complement, also)):
            for column, level in enumerate(asked.values()):
                analysis = self._analyses[level]
                gone = int((~images.present[: analysis.prompts, : analysis.seeds, column]).sum())
                absent += gone
                short |= gone > MISSING_SHARE * analysis.pairs
        return absent if short else 0

    def estimates(self) -> WindowEstimates:
        """Everything that is known, each window from the largest analysis that was of it."""
        windows = sorted(self._windows, key=_order)
        complements = [window for window, level in self._complements.items() if level == self._top]
        table = self._part(self._analyses[self._top], windows, sorted(complements, key=_order))
        table = replace(table, cells=self._cells())
        base = self._at(self._top)
        if base.ratios is None:
            return replace(base, table=replace(base.table, cells=self._cells()))
        earlier = {}
        for window in windows:
            if self._windows[window] < self._top:
                levels = range(self._windows[window], -1, -1)
                of = next(seen for seen in map(self._at, levels) if seen.ratios is not None)
                earlier[window] = (of, min(float(of.high[of.table.windows.index(window)]), self._bound(window)))
        return combined(table, base, earlier)

    def possible_size(self) -> int | None:
        """The smallest size of a window that may reach the threshold, run or not."""
        sizes = [window.size for window in self._in_range if self._may(window)]
        return min(sizes) if sizes and self._alike is not None else None

    def _cells(self) -> int:
        """How many cells there are of those that were asked for."""
        part = self._part(self._analyses[self._top], self._windows, self._complements)
        cells = sum(int(images.present.sum()) for images in (part.clean, part.donor, part.all_sites))
        for images, asked in ((part.swept, self._windows), (part.complement, self._complements)):
            for column, level in enumerate(asked.values()):
                analysis = self._analyses[level]
                cells += int(images.present[: analysis.prompts, : analysis.seeds, column].sum())
        return cells

    def _steps(self) -> Iterator[None]:
        """Yields where what was asked for must be there before it goes on."""
        outer = self._outer()
        first = 0
        self._ask(outer, first)
        yield
        while self._at(first).ratios is None:
            if first == len(self._analyses) - 1:
                return
            # Nothing to take shares of yet: the controls alone tell whether there ever will be.
            first += 1
            self._top = first
            yield
        if first:
            self._ask(outer, first)
            yield
        last = len(self._analyses) - 1
        seen = self._at(first).ratios
        assert seen is not None
        self._alike = likeness(seen.influence[:, :, : len(outer)], seen.present[:, :, : len(outer)])
        yield from self._raise(outer, first, last)
        if around := [window for window in outer if self._promises(window)]:
            yield from self._narrow(around, first, last)
        elif not any(self._may(window) for window in outer):
            yield from self._sufficient(first, last)

    def _narrow(self, around: Sequence[Window], first: int, last: int) -> Iterator[None]:
        """Runs windows inside promising ones, small ones first, until it is known whether there are several places."""
        place: Window | None = None
        for size in range(min(w.size for w in self._in_range), max(w.size for w in around)):
            inner = [
                window
                for window in self._in_range
                if window.size == size
                and self._may(window)
                and any(_inside(window, w) for w in around)
                # Larger ones matter only where they make it one of several places.
                and not (place and window.overlaps(place))
            ]
            self._ask(inner, first)
            yield
            yield from self._raise(inner, first, last, inner=True)
            if self._passing(inner):
                estimates = self.estimates()
                decision = decide(estimates, self._settings)
                if decision.outcome == "multiple" or decision.best is None:
                    return
                place = estimates.table.windows[decision.best]

    def _raise(self, windows: Sequence[Window], first: int, last: int, *, inner: bool = False) -> Iterator[None]:
        """Takes windows from analysis to analysis, and drops those whose upper bound falls below the threshold.

        Those that will hardly pass any more go no further either. An outer one is needed even so where all of them
        must be dropped, for the attribute to be reported as distributed; unless one will hardly be dropped any more.
        """
        for level in range(first, last + 1):
            estimates = self._at(level)
            alive, hopeful, lasting = [], [], []
            for window in windows:
                if self._windows.get(window) != level:
                    continue
                column = estimates.table.windows.index(window)
                self._bounds[window] = float(estimates.high[column])
                if self._bounds[window] < self._settings.threshold:
                    self._dropped.add(window)
                    continue
                alive.append(window)
                may_pass, may_drop = self._outlook(estimates, column, level)
                hopeful += [window] if may_pass else []
                lasting += [] if may_drop else [window]
            # The first analysis, of a few pairs, is there to drop windows; it is too soon to give up on any.
            going = hopeful if inner or (lasting and level > first) else alive
            if level == last or not going:
                return
            self._ask(going, level + 1)
            self._ask(self._companions(first, level + 1), level + 1)
            yield

    def _outlook(self, estimates: WindowEstimates, column: int, level: int) -> tuple[bool, bool]:
        """Tells whether a window may still pass at the last analysis, and whether it may still be dropped.

        Given an estimate of ``error`` from a share ``t`` of the pairs, that of all of them will differ from it by
        ``error * sqrt(1 - t)`` and have an error of ``error * sqrt(t)`` (Brownian information, Lan and Wittes 1988).
        """
        ratios = estimates.ratios
        if ratios is None:
            # A full effect that an earlier analysis had established by luck.
            return True, True
        share = self._analyses[level].pairs / self._analyses[-1].pairs
        error, effect, threshold = ratios.error[column], ratios.value[column], self._settings.threshold
        confidence = self._settings.confidence ** (1 / len(self._in_range))
        width = special.stdtrit(ratios.free[column] / share, confidence) * error * share**0.5
        drift = error * (1 - share) ** 0.5
        return effect + FUTILE * drift >= threshold + width, effect - LASTING * drift < threshold - width

    def _promises(self, window: Window) -> bool:
        """Tells whether the estimate of a window is nearer to passing than to the threshold.

        Not whether it passes: a little less than a window may pass where the whole of it, with more damage, does not.
        """
        estimates = self._at(self._windows[window])
        column = estimates.table.windows.index(window)
        effect, low = estimates.effect[column], estimates.low[column]
        return bool(self._may(window) and effect - self._settings.threshold >= PROMISING * (effect - low))

    def _companions(self, first: int, level: int) -> list[Window]:
        """The strongest windows, to be run beside contenders: one or two do not say how much effects vary."""
        estimates = self._at(first)
        waiting = [i for i, w in enumerate(estimates.table.windows) if self._windows[w] < level]
        waiting.sort(key=lambda i: (-estimates.effect[i], i))
        there = sum(reached >= level for reached in self._windows.values())
        enough = max(POOLED, len(self._in_range) // POOLED_OF)
        return [estimates.table.windows[i] for i in waiting[: max(0, enough - there)]]

    def _sufficient(self, first: int, last: int) -> Iterator[None]:
        """Runs complements: does some window alone keep the attribute?"""
        candidates = shortlist(self.estimates(), self._in_range)
        self._ask(candidates, first, complement=True)
        self._ask(candidates, first)
        yield
        for level in range(first, last + 1):
            estimates = self._at(level)
            columns = estimates.complement_columns()
            if estimates.ratios is None:
                return
            index = np.array([columns[w] for w in candidates if w in columns], dtype=np.intp)
            low = estimates.ratios.simultaneous_low(self._confidence(level), index)
            candidates = tuple(
                window
                for window, bound in zip([w for w in candidates if w in columns], low, strict=True)
                if bound < PREVAILS
            )
            if level == last or not candidates:
                return
            self._ask(candidates, level + 1, complement=True)
            self._ask(candidates, level + 1)
            self._ask(self._companions(first, level + 1), level + 1)
            yield

    def _outer(self) -> list[Window]:
        """Windows in range that no other in range contains."""
        return [w for w in self._in_range if not any(_inside(w, other) for other in self._in_range)]

    def _may(self, window: Window) -> bool:
        """No window around it, nor itself, was dropped."""
        return not any(window == other or _inside(window, other) for other in self._dropped)

    def _bound(self, window: Window) -> float:
        """The least upper bound of all windows around one, and of itself."""
        around = (bound for other, bound in self._bounds.items() if window == other or _inside(window, other))
        return min(around, default=np.inf)

    def _passing(self, windows: Iterable[Window]) -> bool:
        """Tells whether one of these windows passes without too much damage."""
        estimates = self._at(len(self._analyses) - 1)
        harmless = np.nan_to_num(estimates.damage) <= self._settings.damage_share
        passing = harmless & (estimates.low >= self._settings.threshold)
        return any(
            passes and window in windows for window, passes in zip(estimates.table.windows, passing, strict=True)
        )

    def _at(self, level: int) -> WindowEstimates:
        """What one analysis says of all windows that it was of."""
        windows, complements = (
            tuple(sorted((w for w, reached in asked.items() if reached >= level), key=_order))
            for asked in (self._windows, self._complements)
        )
        key = (level, windows, complements, self._alike)
        if key not in self._seen:
            self._seen[key] = self._estimate(level, windows, complements)
        return self._seen[key]

    def _estimate(self, level: int, windows: tuple[Window, ...], complements: tuple[Window, ...]) -> WindowEstimates:
        table = self._part(self._analyses[level], windows, complements)
        last = level == len(self._analyses) - 1
        # Windows are asked for as answers come in: every bound holds for all that could have been.
        estimates = estimate_windows(
            table,
            self._settings,
            family=len(self._in_range),
            high_confidence=self._confidence(level),
            alike=self._alike,
        )
        if last:
            return estimates
        return replace(estimates, bounds=replace(estimates.bounds, low=np.full_like(estimates.low, np.nan)))

    def _confidence(self, level: int) -> float:
        return 1 - (1 - self._settings.confidence) * self._analyses[level].spends

    def _part(self, analysis: InterimAnalysis, windows: Iterable[Window], complements: Iterable[Window]) -> ScoreTable:
        assert self._table is not None
        prompts, seeds = self._grid.prompts[: analysis.prompts], self._grid.seeds[: analysis.seeds]
        return self._table.part(prompts, seeds, tuple(windows), tuple(complements))

    def _ask(self, windows: Iterable[Window], level: int, *, complement: bool = False) -> None:
        asked = self._complements if complement else self._windows
        for window in windows:
            asked[window] = max(level, asked.get(window, 0))
            self._top = max(self._top, level)


def _order(window: Window) -> tuple[int, int]:
    return window.size, window.start


def _inside(window: Window, other: Window) -> bool:
    return window != other and other.start <= window.start and window.start + window.size <= other.start + other.size
