from __future__ import annotations

import itertools

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from loco_core.localization.base import Grid, LocalizeSettings, Rule
from loco_core.localization.bench import Noise
from loco_core.localization.bench.replay import ReplayedTable
from loco_core.localization.interim import interim_analyses
from loco_core.localization.localizers import sequential, window
from loco_core.statistics import MOST_SHARED, likeness
from loco_core.testing.localizers import SETTINGS, SITE_NAMES, a_table, replayed
from loco_core.types import Window
from tests.support.score_tables import QUIET, rows_of

RULE = Rule(sequential.localize, sequential.begin)


def replayed_quietly(kind: str, seed: int) -> ReplayedTable:
    table = a_table(kind, seed, QUIET)
    return ReplayedTable(pa.concat_tables([table.scores, table.complement_scores]), 16)


@pytest.mark.parametrize("kind", ["single", "all_at_0.70", "two_disjoint", "redundant", "distributed", "damaging"])
def test_enough_images_give_the_answer_of_the_whole_grid(kind: str) -> None:
    table = replayed_quietly(kind, 1)
    few, whole = table.answer(RULE, SETTINGS), table.answer(Rule(window.localize), SETTINGS)
    assert (few.found.outcome, few.found.window) == (whole.found.outcome, whole.found.window)
    assert few.found.possible_size == whole.found.possible_size
    assert few.images < 0.35 * whole.images


@pytest.mark.parametrize(("kind", "share"), [("absent", 0.15), ("no_effect", 0.15), ("distributed", 0.3)])
def test_what_cannot_be_localized_ends_early(kind: str, share: float) -> None:
    table = replayed(kind)
    answer = table.answer(RULE, SETTINGS)
    assert answer.found.outcome == kind
    assert answer.images < share * table.answer(Rule(window.localize), SETTINGS).images


@pytest.mark.parametrize("second", [Window(4, 3), Window(13, 3), Window(13, 2), Window(9, 3)], ids=str)
def test_a_second_place_is_looked_for_that_no_large_window_shows(second: Window) -> None:
    """The four sites around it lose the content; only all of its own, together, hold the attribute."""
    simulated = next(t for t in (a_table("single", seed, QUIET) for seed in range(99)) if t.window == Window(12, 1))
    rows = pa.concat_tables([simulated.scores, simulated.complement_scores]).to_pandas()
    scores = ["clip_score", "clip_score_donor"]
    pair = ["prompt_id", "seed"]
    alike = rows[(rows.control == "window") & (rows.window_start == 12) & (rows.window_size == 1)].set_index(pair)
    end = second.start + second.size
    around = (
        (rows.control == "window") & (rows.window_start <= second.start) & (rows.window_start + rows.window_size >= end)
    )
    rows.loc[around, scores] = alike.loc[pd.MultiIndex.from_frame(rows.loc[around, pair]), scores].to_numpy()
    rows.loc[around & (rows.window_size > second.size), "clip_score_content"] = 0.1
    table = ReplayedTable(pa.Table.from_pandas(rows, simulated.scores.schema, preserve_index=False), 16)
    assert table.answer(Rule(window.localize), SETTINGS).found.outcome == "multiple"
    few = table.answer(RULE, SETTINGS)
    assert few.found.outcome == "multiple"
    assert few.images < 0.5 * table.scores.num_rows


def test_effects_count_what_each_window_was_run_on() -> None:
    answer = replayed_quietly("single", 1).answer(RULE, SETTINGS)
    run: dict[Window, set[tuple[str, int]]] = {}
    for row in answer.scores.to_pylist():
        if row["control"] == "window":
            window_of = Window(row["window_start"], row["window_size"])
            run.setdefault(window_of, set()).add((row["prompt_id"], row["seed"]))
    counts = {Window(row.window_start, row.window_size): (row.n_prompts, row.n_seeds) for row in answer.found.effects}
    assert counts == {w: (len({p for p, _ in pairs}), len({s for _, s in pairs})) for w, pairs in run.items()}
    assert len(set(counts.values())) > 1


def test_it_begins_with_the_largest_windows_on_few_pairs() -> None:
    table = replayed("single")
    begun = sequential.begin(table.grid, SETTINGS)
    asked = [request for request in begun if request.window is not None]
    assert [request.window for request in asked] == [Window(start, 4) for start in range(13)]
    assert {(request.prompts, request.seeds) for request in begun} == {(8, 2)}, (
        "all prompts: a few may be unlike others"
    )
    coarse = Grid(
        16, tuple(Window(s, n) for n in (1, 2) for s in range(0, 15, 3)), table.grid.prompts, table.grid.seeds
    )
    asked_first = [request.window for request in sequential.begin(coarse, SETTINGS)[1:]]
    assert asked_first == [Window(s, 2) for s in range(0, 15, 3)]


def test_a_claim_holds_for_windows_that_were_not_run() -> None:
    """The bound of one contender is that of one out of fifty-eight."""
    table = replayed_quietly("single", 0)
    few, whole = table.answer(RULE, SETTINGS).found, table.answer(Rule(window.localize), SETTINGS).found
    low = {(e.window_start, e.window_size): e.simultaneous_low for e in whole.effects}
    run = [
        (e.simultaneous_low, low[e.window_start, e.window_size]) for e in few.effects if e.simultaneous_low is not None
    ]
    assert run
    assert all(mine == pytest.approx(theirs, abs=0.03) for mine, theirs in run)


@pytest.mark.parametrize(("prompts", "seeds"), [(1, 1), (1, 4), (2, 2), (8, 1), (8, 4), (12, 8), (100, 10)])
def test_interim_analyses_are_nested_spend_all_the_error_and_end_with_the_grid(prompts: int, seeds: int) -> None:
    found = interim_analyses(prompts, seeds, 8)
    assert (found[-1].prompts, found[-1].seeds) == (prompts, seeds)
    assert sum(analysis.spends for analysis in found) == pytest.approx(1)
    for before, after in itertools.pairwise(found):
        assert before.prompts <= after.prompts
        assert before.seeds <= after.seeds
        assert before.pairs < after.pairs
        assert before.spends < after.spends


def test_columns_of_one_scale_may_borrow_and_of_many_scales_may_not() -> None:
    rng = np.random.default_rng(0)
    values = rng.standard_normal((4, 2, 13))
    there = np.ones(values.shape, dtype=np.bool_)
    assert likeness(values, there) == MOST_SHARED
    assert likeness(values * 10 ** rng.uniform(-2, 2, 13), there) < 2


@pytest.mark.parametrize(("prompts", "seeds"), [(1, 1), (2, 2), (8, 1)])
def test_small_grids_are_answered(prompts: int, seeds: int) -> None:
    whole = replayed("single")
    grid = Grid(16, whole.grid.windows, whole.grid.prompts[:prompts], whole.grid.seeds[:seeds])
    found = RULE(whole.scores, SETTINGS, SITE_NAMES, grid)
    assert (found.n_prompts, found.n_seeds) == (prompts, seeds)
    assert found.outcome != "incomplete"


def test_a_lost_cell_is_borne_and_is_still_asked_for() -> None:
    table = a_table("single", 0, Noise(image=0.002))
    assert table.window is not None
    lost = np.flatnonzero(rows_of(table.scores, Window(0, 4)))[:1]
    scores = table.scores.take(np.delete(np.arange(table.scores.num_rows), lost))
    grid = replayed("single").grid
    found = RULE(scores, LocalizeSettings(resamples=200, screen=32), SITE_NAMES, grid)
    assert found.outcome == "localized"
    assert Window(0, 4) in {request.window for request in found.wants}
