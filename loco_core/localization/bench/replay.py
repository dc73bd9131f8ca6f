"""Gives a localizer the rows that it asks for, as a sweep does, from a table that has them all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from loco_core.localization.base import Grid, Localization, LocalizeSettings, Request, Rule
from loco_core.statistics import Bools
from loco_core.tables import rows_where
from loco_core.types import Window

_BASELINES = ("clean", "donor", "all_sites")


@dataclass(frozen=True)
class Answer:
    """What a localizer says when it wants nothing more.

    Attributes:
        found: its localization.
        scores: all rows that it was given by then.
        drawn: images that a sweep draws for them: every round draws the clean and the donor image of a pair again.
        unmet: what it still asks for, and the table does not have.
    """

    found: Localization
    scores: pa.Table
    drawn: int
    unmet: tuple[Request, ...] = ()

    @property
    def images(self) -> int:
        """How many images were scored."""
        return int(self.scores.num_rows)


class ReplayedTable:
    """A complete score table of one (model, attribute)."""

    def __init__(self, scores: pa.Table, n_sites: int | None = None) -> None:
        """Indexes a table.

        Args:
            scores: all rows, complements included.
            n_sites: number of sites of the model; None takes it from the ``all_sites`` rows.
        """
        self.scores = scores
        self._control = np.array(scores["control"].cast(pa.string()).to_pylist())
        self._start, self._size = (
            np.asarray(pc.fill_null(scores[name], pa.scalar(-1, scores[name].type)).to_numpy(), dtype=np.int64)
            for name in ("window_start", "window_size")
        )
        prompts, self._prompt = np.unique(
            np.array(scores["prompt_id"].cast(pa.string()).to_pylist()), return_inverse=True
        )
        seeds, self._seed = np.unique(scores["seed"].to_numpy(), return_inverse=True)
        swept = self._control == "window"
        keys = np.unique(np.stack([self._size[swept], self._start[swept]], axis=1), axis=0)
        windows = tuple(Window(int(start), int(size)) for size, start in keys)
        if n_sites is None:
            everywhere = rows_where(scores, control="all_sites")["site_indices"]
            n_sites = int(pc.max(pc.list_flatten(everywhere)).as_py()) + 1
        self.grid = Grid(n_sites, windows, tuple(map(str, prompts)), tuple(map(int, seeds)))

    def answer(self, rule: Rule, settings: LocalizeSettings, site_names: Sequence[str] = ()) -> Answer:
        """Asks until nothing more is wanted that there is.

        A rule without a beginning is given all but complements at first.
        """
        given = self._mask(rule.begin(self.grid, settings)) if rule.begin else self._control != "complement"
        drawn = self._drawn(given, np.zeros_like(given))
        while True:
            scores = self.scores.take(np.flatnonzero(given))
            found = rule(scores, settings, site_names, self.grid)
            more = given | self._mask(found.wants)
            if not (more & ~given).any():
                unmet = tuple(request for request in found.wants if not self._has(request))
                return Answer(found, scores, drawn, unmet)
            drawn += self._drawn(more, given)
            given = more

    def _drawn(self, more: Bools, given: Bools) -> int:
        """Images of one round: what is new, and the clean and donor images of its pairs where these are not."""
        new = more & ~given
        pairs = len(set(zip(self._prompt[new], self._seed[new], strict=True)))
        anchors = int((new & np.isin(self._control, ("clean", "donor"))).sum())
        return int(new.sum()) - anchors + 2 * pairs

    def rows(self, requests: Sequence[Request]) -> pa.Table:
        """Returns what these requests ask for."""
        return self.scores.take(np.flatnonzero(self._mask(requests)))

    def _has(self, request: Request) -> bool:
        cells = self._mask([request])
        return request.window is None or bool((cells & (self._control == request.control)).any())

    def _mask(self, requests: Sequence[Request]) -> Bools:
        wanted = np.zeros(len(self._control), dtype=np.bool_)
        for request in requests:
            pairs = self._first(self._prompt, request.prompts) & self._first(self._seed, request.seeds)
            wanted |= pairs & np.isin(self._control, _BASELINES)
            if request.window is not None:
                of = (self._start == request.window.start) & (self._size == request.window.size)
                wanted |= pairs & of & (self._control == request.control)
        return wanted

    @staticmethod
    def _first(place: NDArray[np.intp], count: int | None) -> Bools:
        return np.ones(len(place), dtype=np.bool_) if count is None else place < count
