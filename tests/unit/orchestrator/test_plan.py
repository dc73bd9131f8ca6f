"""Planning: every cell once, axes that grow, slices that carry their own clean and donor images."""

from __future__ import annotations

import itertools
from collections import Counter
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loco_core.attributes import attribute
from loco_core.localizers import Request
from loco_core.types import Window
from orchestrator.plan import from_table, plan, random_sites, to_table, windows
from orchestrator.resolve import Resolved, ResolvedModel, ResolvedScorer
from orchestrator.spec import SweepSpec, WorkerNeeds

SITES = 16


def resolved_for(spec: SweepSpec, seconds: float = 0.1) -> Resolved:
    models = tuple(
        ResolvedModel(
            id=model.id, family="stable_diffusion", path="/nowhere", revision=None, weights=f"weights of {model.id}",
            dtype="float32", site_names=tuple(f"site{i}" for i in range(SITES)), native_side=64,
            seconds_per_image=seconds,
            worker=WorkerNeeds(),
        )
        for model in spec.models
    )  # fmt: skip
    scorer = ResolvedScorer(name="toy-clip", source="toy-clip", revision=None, weights="c")
    return Resolved(models=models, attributes=tuple(attribute(str(a)) for a in spec.attributes), scorer=scorer)


def sweep(**changes: Any) -> SweepSpec:
    content: dict[str, Any] = {
        "name": "s", "models": ["m"], "attributes": ["style/velor"], "windows": {"sizes": [1, 2]}, "prompts": 2,
        "seeds": 2, "scorer": "toy-clip", "generation": {"steps": 10, "batch_size": 8},
    }  # fmt: skip
    return SweepSpec.model_validate({**content, **changes}, strict=False)


def test_every_cell_is_planned_once_with_its_block() -> None:
    spec = sweep(attributes=["style/velor", "object/star"], models=["m", "n"])
    rows = [row for unit in plan(spec, resolved_for(spec)) for row in unit.rows if row.emit]
    per_block = 2 + 2 + len(windows(spec, SITES)) + 2 * 2
    assert len(rows) == 2 * 2 * 2 * 2 * per_block
    assert max(Counter(row.key for row in rows).values()) == 1


def test_without_sizes_each_model_is_swept_up_to_the_largest_window_that_may_be_picked() -> None:
    spec, named = sweep(windows={}), sweep(windows={"sizes": [4, 1, 2, 3]})
    # What a sweep wrote out before sizes could be left out: the cells keep their names.
    assert plan(spec, resolved_for(spec)) == plan(named, resolved_for(named))
    for n_sites in (1, 3, SITES, 22, 57, 70):
        sizes = sorted({window.size for window in windows(spec, n_sites)})
        assert (sizes[0], sizes[-1]) == (1, spec.localize.largest(n_sites))
        assert all(large <= 2 * small for small, large in itertools.pairwise(sizes))
        assert spec.sizes(n_sites) == tuple(sizes)


def test_a_slice_generates_its_own_clean_and_donor_images_but_scores_them_once() -> None:
    spec = sweep(prompts=1, seeds=1)
    units = plan(spec, resolved_for(spec, seconds=60.0))
    assert len(units) > 2
    for unit in units:
        assert [row.control for row in unit.rows[:2]] == ["clean", "donor"]
        assert len(unit.rows) <= 8
    assert sum(row.emit for unit in units for row in unit.rows if row.control == "clean") == 1


def test_a_plan_survives_its_file() -> None:
    spec = sweep()
    units = plan(spec, resolved_for(spec))
    assert from_table(to_table(units)) == units


@settings(max_examples=25, deadline=None)
@given(
    st.integers(1, 3), st.integers(1, 3), st.sampled_from([(1,), (1, 2), (2, 3)]), st.integers(0, 2), st.integers(0, 2)
)
def test_growing_an_axis_plans_exactly_the_difference(
    prompts: int, seeds: int, sizes: tuple[int, ...], more_prompts: int, more_seeds: int
) -> None:
    """What was planned plus what growing adds are the cells of a fresh plan with the grown axes."""
    small = sweep(prompts=prompts, seeds=seeds, windows={"sizes": list(sizes)}, controls={"random": 1})
    large = sweep(
        prompts=prompts + more_prompts, seeds=seeds + more_seeds, windows={"sizes": [*sizes, 4]}, controls={"random": 2}
    )
    first = plan(small, resolved_for(small))
    planned = {row.key for unit in first for row in unit.rows if row.emit}
    added = plan(large, resolved_for(large), planned, first_order=len(first))
    grown = planned | {row.key for unit in added for row in unit.rows if row.emit}
    fresh = {row.key for unit in plan(large, resolved_for(large)) for row in unit.rows if row.emit}
    assert grown == fresh
    assert not plan(large, resolved_for(large), grown)
    assert not {unit.unit_id for unit in first} & {unit.unit_id for unit in added}


def test_complements_are_planned_on_top() -> None:
    spec = sweep()
    resolved = resolved_for(spec)
    planned = {row.key for unit in plan(spec, resolved) for row in unit.rows}
    units = plan(spec, resolved, planned, requests={("m", "style/velor"): [Request("complement", Window(3, 2))]})
    emitted = [row for unit in units for row in unit.rows if row.emit]
    assert len(emitted) == 4
    assert {row.control for row in emitted} == {"complement"}
    assert all(set(row.site_indices) == set(range(SITES)) - {3, 4} for row in emitted)


def test_requests_are_planned_on_the_first_prompts_and_seeds_alone() -> None:
    spec, controls = sweep(prompts=3, seeds=4), ("clean", "donor", "identity", "all_sites", "window")
    block, window = ("m", "style/velor"), Window(3, 2)
    few = plan(spec, resolved_for(spec), requests={block: [Request("window", window, 2, 1)]})
    rows = [row for unit in few for row in unit.rows if row.emit]
    assert Counter(row.control for row in rows) == dict.fromkeys(controls, 2)
    assert {row.seed for row in rows} == {0}
    grown = plan(spec, resolved_for(spec), {row.key for row in rows}, requests={block: [Request("window", window)]})
    more = [row for unit in grown for row in unit.rows if row.emit]
    assert Counter(row.control for row in more) == dict.fromkeys(controls, 10)
    assert not plan(spec, resolved_for(spec), requests={("m", "style/other"): [Request("window", window)]})


def test_only_named_rows_are_planned() -> None:
    spec = sweep()
    every = {row.key for unit in plan(spec, resolved_for(spec)) for row in unit.rows}
    again = set(sorted(every, key=str)[:3])
    units = plan(spec, resolved_for(spec), every - again, only=again, round_=1)
    assert {row.key for unit in units for row in unit.rows if row.emit} == again


def test_random_sets_are_prefix_stable() -> None:
    assert random_sites(SITES, 3, 5)[:2] == random_sites(SITES, 3, 2)


def test_random_sets_are_all_different_and_no_more_than_there_are() -> None:
    assert len(set(random_sites(SITES, 2, 60))) == 60
    assert sorted(random_sites(4, 1, 10)) == [(0,), (1,), (2,), (3,)]


def test_the_donor_outright_takes_all_options_full() -> None:
    spec = sweep(interventions=[{"part": "k", "steps": [2, 5]}])
    rows = [row for unit in plan(spec, resolved_for(spec)) for row in unit.rows]
    donors = [row for row in rows if row.control == "donor"]
    assert {row.engine_row.prompt for row in donors} == {row.donor for row in donors}
    assert all(not row.site_indices for row in donors)
    assert {(row.part, row.step_start, row.step_end) for row in rows if row.control == "window"} == {("k", 2, 5)}


def test_identical_images_have_one_identity_whatever_their_label() -> None:
    spec = sweep(windows={"sizes": [1, 16]}, controls={"random": 0})
    rows = [row for unit in plan(spec, resolved_for(spec)) for row in unit.rows if row.seed == 0]
    first = [row for row in rows if row.prompt == rows[0].prompt]
    whole = {row.image_id for row in first if row.window_size == 16}
    assert whole == {row.image_id for row in first if row.control == "all_sites"}
    assert whole != {row.image_id for row in first if row.control == "identity"}


@pytest.mark.parametrize("seconds", [0.001, 0.5, 5.0])
def test_units_are_never_empty(seconds: float) -> None:
    spec = sweep()
    assert all(unit.rows for unit in plan(spec, resolved_for(spec, seconds)))


def test_batches_of_a_unit_are_few_and_of_equal_size() -> None:
    spec = sweep(generation={"steps": 10, "batch_size": 30}, windows={"sizes": [1, 2]}, controls={"random": 0})
    (unit, *_) = plan(spec, resolved_for(spec))
    images = len({row.image_id for row in unit.rows})
    assert images == 35
    assert {row.batch_size for row in unit.rows} == {18}
