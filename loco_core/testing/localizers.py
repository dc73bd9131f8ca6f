"""The contract of a localizer, to be inherited by the tests of one.

class TestMine(LocalizerContract):
    @property
    def rule(self) -> Rule:
        return Rule(mine.localize)
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from typing import get_args

import numpy as np
import pyarrow as pa
import pytest

from loco_core.errors import LocalizationError
from loco_core.localization.base import Localization, LocalizeSettings, Outcome, Rule
from loco_core.localization.bench import Noise, SimulatedTable, simulated_table
from loco_core.localization.bench.replay import Answer, ReplayedTable
from loco_core.localization.bench.truths import KINDS, SITES, WINDOWS
from loco_core.types import Window

SITE_NAMES = tuple(f"site.{i}" for i in range(SITES))
SETTINGS = LocalizeSettings(resamples=200)


def a_table(kind: str = "single", seed: int = 0, noise: Noise | None = None) -> SimulatedTable:
    """A simulated table of one truth kind."""
    return simulated_table(kind, np.random.default_rng(seed), noise or Noise())


def replayed(kind: str) -> ReplayedTable:
    """A simulated table of one truth kind, complements included, to be asked for row by row."""
    table = a_table(kind)
    return ReplayedTable(pa.concat_tables([table.scores, table.complement_scores]), SITES)


class LocalizerContract:
    """What every localizer promises, whatever its rule."""

    @property
    def rule(self) -> Rule:
        """What is under test; with `begin` where your file has it."""
        raise NotImplementedError("return a Rule of your localizer's `localize` function here")

    def localize(self, scores: pa.Table, settings: LocalizeSettings, site_names: Sequence[str] = ()) -> Localization:
        """Localizes from rows that are there."""
        return self.rule(scores, settings, site_names, None)

    def answer(self, kind: str) -> Answer:
        """What is said of a table when nothing more is wanted."""
        return replayed(kind).answer(self.rule, SETTINGS, SITE_NAMES)

    @pytest.mark.parametrize("kind", KINDS)
    def test_answers_every_kind_of_table(self, kind: str) -> None:
        """Names the table, a known outcome, a reason, and one effect row for each window that was run."""
        found = self.answer(kind).found
        assert (found.model, found.attribute, found.attribute_kind) == ("simulated", "style/simulated", "style")
        assert found.outcome in get_args(Outcome)
        assert found.reason
        run = [Window(effect.window_start, effect.window_size) for effect in found.effects]
        assert run == [window for window in WINDOWS if window in run]
        if self.rule.begin is None:
            assert len(run) == len(WINDOWS)
        assert {request.window for request in found.wants} <= {None, *WINDOWS}

    @pytest.mark.parametrize("kind", KINDS)
    def test_only_what_was_asked_for_counts(self, kind: str) -> None:
        """A localizer that begins small says of the whole grid what it says of its own part of it."""
        if self.rule.begin is None:
            pytest.skip("is given the whole grid")
        whole, few = replayed(kind), self.answer(kind)
        assert few.images < whole.scores.num_rows / 2
        assert self.rule(whole.scores, SETTINGS, SITE_NAMES, whole.grid) == few.found

    def test_asks_for_what_is_missing(self) -> None:
        """Without a row that it asked for, a localizer that begins small still asks for it."""
        if self.rule.begin is None:
            pytest.skip("is given the whole grid")
        table = replayed("single")
        first = self.rule.begin(table.grid, SETTINGS)
        assert first == self.rule.begin(table.grid, SETTINGS)
        found = self.rule(table.rows(first[: len(first) // 2]), SETTINGS, SITE_NAMES, table.grid)
        assert found.outcome == "incomplete"
        assert set(first) <= set(found.wants)

    @pytest.mark.parametrize("kind", KINDS)
    def test_a_window_is_given_exactly_if_localized(self, kind: str) -> None:
        """The picked window is one that was swept, and comes with its sites, depth and ties."""
        found = self.answer(kind).found
        assert (found.window is not None) == (found.outcome == "localized")
        if found.window is not None:
            assert found.window in WINDOWS
            assert found.site_names == tuple(SITE_NAMES[i] for i in found.window.sites)
            assert found.relative_depth is not None
            assert 0 <= found.relative_depth <= 1
            assert found.window.start in found.tie_set
        else:
            assert found.site_names == ()

    @pytest.mark.parametrize("kind", KINDS)
    def test_same_answer_again_and_for_any_order_of_rows(self, kind: str) -> None:
        """A pure function of the set of rows."""
        scores = a_table(kind).scores
        order = np.random.default_rng(1).permutation(scores.num_rows)
        first = self.localize(scores, SETTINGS, SITE_NAMES)
        assert self.localize(scores, SETTINGS, SITE_NAMES) == first
        assert self.localize(scores.take(order), SETTINGS, SITE_NAMES) == first

    def test_further_columns_are_ignored(self) -> None:
        """Tables of later versions can still be read."""
        scores = a_table().scores
        more = scores.append_column("of_tomorrow", pa.nulls(scores.num_rows))
        assert self.localize(more, SETTINGS) == self.localize(scores, SETTINGS)

    @pytest.mark.parametrize("kind", KINDS)
    def test_holds_nulls_not_nan(self, kind: str) -> None:
        """Plain finite Python values: the rows go to Parquet and JSON as they are."""
        found = self.answer(kind).found
        json.dumps(dataclasses.asdict(found), allow_nan=False)

    @pytest.mark.parametrize("column", ["clip_score", "control", "seed", "window_start"])
    def test_a_missing_column_is_named(self, column: str) -> None:
        """The error says which."""
        with pytest.raises(LocalizationError, match=column):
            self.localize(a_table().scores.drop_columns([column]), SETTINGS)

    def test_rows_of_two_attributes_are_refused(self) -> None:
        """Averaging over attributes by accident would look like a result."""
        scores = a_table().scores
        position = scores.column_names.index("attribute")
        other = scores.set_column(
            position, "attribute", pa.array(["style/other"] * scores.num_rows).dictionary_encode()
        )
        with pytest.raises(LocalizationError, match="style/other"):
            self.localize(pa.concat_tables([scores, other]), SETTINGS)

    def test_no_rows_are_refused(self) -> None:
        """With a clean message, not with an index error."""
        with pytest.raises(LocalizationError):
            self.localize(a_table().scores.slice(0, 0), SETTINGS)
