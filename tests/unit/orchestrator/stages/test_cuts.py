"""How a block is cut into units: whatever is missing of it, every image once, in whole batches of one size."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loco_core.diffusion.cutting import in_batches
from loco_core.localization.base import Request
from loco_core.types import PromptRecord, Window
from orchestrator.resolve.resolved import ResolvedModel
from orchestrator.spec import SweepSpec, WorkerNeeds
from orchestrator.stages.sweep.cuts import Cut, cut
from orchestrator.stages.sweep.plan import count, counted, plan
from orchestrator.stages.sweep.planned import EMPTY, Prompt, SweepUnit
from orchestrator.stages.sweep.rows import PlannedRow, rows_of
from orchestrator.stages.sweep.variants import BASELINES, whole_grid
from tests.support.sweeps import fake_resolved, tiny_sweep

SITES = 16
TWO = PromptRecord("a red circle", "a blue circle", "red", "blue", "circle", "")
ALIKE = PromptRecord("a red circle", "a red circle", "red", "blue", "circle", "")


def model_of(family: str, seconds: float = 1.0) -> ResolvedModel:
    return ResolvedModel(
        id="m", family=family, path="/nowhere", revision=None, weights="w", dtype="float32",
        site_names=tuple(f"site{i}" for i in range(SITES)), native_side=64, seconds_per_image=seconds,
        worker=WorkerNeeds(),
    )  # fmt: skip


def sweep(batch: int, **changes: Any) -> SweepSpec:
    generation = {"steps": 50, "batch_size": batch, **changes.pop("generation", {})}
    return tiny_sweep("x", generation=generation, **{"windows": {"sizes": [1, 2]}, **changes})


def drawn(spec: SweepSpec, model: ResolvedModel, record: PromptRecord, made: Cut) -> list[PlannedRow]:
    """Returns what a worker draws in the batches of a unit: every image once, the clean one where it leads."""
    prompt = Prompt("style/velor", "style", "remove", "p", record, ())
    unit = SweepUnit("u", "m", prompt, 0, made.variants, made.clean, made.donor, made.leads, made.batch_size)
    rows = rows_of(unit, model, fake_resolved(spec).scorer, spec.generation.settings)
    images: dict[str, PlannedRow] = {}
    for row in rows:
        images.setdefault(row.image_id, row)
    clean = rows[0].image_id
    return [row for name, row in images.items() if made.leads or name != clean]


OPTIONS = [{}, {"part": "k"}, {"steps": [0, 10]}, {"tokens": "words"}]


@settings(max_examples=150, deadline=None)
@given(
    data=st.data(),
    family=st.sampled_from(["stable_diffusion", "flux"]),
    record=st.sampled_from([TWO, ALIKE]),
    most=st.integers(1, 20),
    seconds=st.sampled_from([0.1, 7.0, 20.0, 100.0, 1e6]),
)
def test_every_image_that_is_wanted_is_drawn_once_in_whole_batches(
    data: st.DataObject, family: str, record: PromptRecord, most: int, seconds: float
) -> None:
    beside = family == "flux"
    most = max(most, 2) if beside else most
    spec, model = sweep(most, interventions=OPTIONS), model_of(family)
    grid = whole_grid(spec, SITES)
    missing = data.draw(st.lists(st.sampled_from(grid), min_size=1, unique=True))
    cuts = list(cut(spec, model, missing, record, seconds))
    found = [variant for each in cuts for variant in each.variants]
    assert len(found) == len(set(found))
    assert set(found) == set(missing) - set(BASELINES)
    assert sum(each.clean for each in cuts) == (BASELINES[0] in missing)
    assert sum(each.donor for each in cuts) == (BASELINES[1] in missing)
    assert [each.leads for each in cuts] == [True] + [False] * (len(cuts) - 1)
    assert all(each.cells for each in cuts)
    (size,) = {each.batch_size for each in cuts}
    assert size <= most
    units = [drawn(spec, model, record, each) for each in cuts]
    assert [len(rows) for rows in units] == [each.images for each in cuts]
    images = [row.image_id for rows in units for row in rows]
    assert len(images) == len(set(images)), "an image is drawn twice"
    # Cut by units or not, the batches are the same, and as few as there may be.
    together = [row.engine_row for rows in units for row in rows]
    batches = list(in_batches(together, size, beside=beside))
    assert [b for rows in units for b in in_batches([r.engine_row for r in rows], size, beside=beside)] == batches
    assert len(batches) == len(list(in_batches(together, most, beside=beside)))
    if not beside:
        assert len(batches) == math.ceil(len(images) / most)
        assert all(len(batch) == size for batch, _ in batches[:-1])
        # One picture longer where the clean one would be alone.
        assert all(each.images - (each.leads and size == 1) <= max(seconds, size) for each in cuts)


def test_a_row_that_reads_from_its_own_picture_costs_two() -> None:
    model, made = model_of("flux"), {}
    for source in ("run", "own"):
        spec = sweep(8, interventions=[{"source": source}])
        cuts = list(cut(spec, model, whole_grid(spec, SITES), TWO, 1e6))
        made[source] = sum(each.images for each in cuts), sum(each.seconds for each in cuts)
        rows = [row.engine_row for each in cuts for row in drawn(spec, model, TWO, each)]
        beside = sum(len(sources) for _, sources in in_batches(rows, 8, beside=True))
    (images, seconds), (twice, longer) = made["run"], made["own"]
    assert twice == images + beside
    assert beside > images / 2
    assert longer == pytest.approx(seconds * twice / images)


@settings(max_examples=60, deadline=None)
@given(
    data=st.data(),
    family=st.sampled_from(["stable_diffusion", "flux"]),
    most=st.integers(1, 4),
    seconds=st.sampled_from([0.1, 40.0]),
)
def test_however_a_sweep_grows_every_unit_scores_cells_and_has_a_name_of_its_own(
    data: st.DataObject, family: str, most: int, seconds: float
) -> None:
    spec = sweep(max(most, 2) if family == "flux" else most, prompts=2, seeds=2)
    resolved = fake_resolved(spec)
    known, model = EMPTY, model_of(family, seconds)
    resolved = resolved.model_copy(update={"models": (model,)})
    asked = st.builds(
        Request, st.just("window"), st.builds(Window, st.integers(0, 10), st.integers(1, 5)), st.integers(1, 2),
        st.integers(1, 2),
    )  # fmt: skip
    for wanted in data.draw(st.lists(st.lists(asked, min_size=1, max_size=3), min_size=1, max_size=5)):
        requests = {("m", each.key): wanted for each in resolved.attributes}
        more = plan(spec, resolved, known, requests=requests)
        assert counted(more).images == count(spec, resolved, known, requests=requests).images
        known += more
    assert known.column("cells").min() > 0
    assert len(set(known.unit_ids)) == len(known)


def test_units_of_a_block_are_of_about_the_same_length() -> None:
    spec = sweep(4)
    lengths = [each.images for each in cut(spec, model_of("stable_diffusion"), whole_grid(spec, SITES), TWO, 24.0)]
    assert len(lengths) > 1
    assert max(lengths) <= 24
    assert all(one - other <= 4 for one, other in pairwise(lengths))


def planned(seconds_per_image: float, probed: float | None = None, **changes: Any) -> list[float]:
    """Returns the images of the units of a sweep."""
    spec = sweep(4, **changes)
    resolved = fake_resolved(spec)
    model = resolved.models[0].model_copy(
        update={"seconds_per_image": seconds_per_image, "probed_seconds": probed, "probed_batch": 4}
    )
    resolved = resolved.model_copy(update={"models": (model,)})
    images: list[float] = plan(spec, resolved).column("images").tolist()
    assert sum(images) == count(spec, resolved).images
    return images


def test_units_are_as_long_as_the_spec_and_what_was_measured_allow() -> None:
    # Enough prompts and seeds that there are many units in any case.
    many = {"seeds": 60}
    assert max(planned(10.0, **many)) <= 30
    assert max(planned(10.0, generation={"unit_seconds": 80}, **many)) == 8
    assert max(planned(10.0, generation={"unit_seconds": 1}, **many)) == 4
    assert max(planned(10.0, probed=20.0, **many)) <= 16
    assert max(planned(10.0, probed=0.1, **many)) == max(planned(0.1, **many)) > 30


@pytest.mark.parametrize("seconds", [1.0, 6.0, 30.0])
def test_a_small_sweep_is_work_for_several_workers(seconds: float) -> None:
    found = planned(seconds, attributes=["style/velor"], prompts=1, seeds=1)
    assert max(found) * seconds <= max(30.0, 4 * seconds)
