"""Planning: every cell once, axes that grow, slices of a block that share one clean image."""

from __future__ import annotations

import itertools
import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loco_core.errors import SpecError
from loco_core.localization.base import Request
from loco_core.types import Window
from orchestrator import identity
from orchestrator.resolve.lookup import named_attributes
from orchestrator.resolve.resolved import Resolved, ResolvedModel, ResolvedScorer
from orchestrator.runs.session import check_texts
from orchestrator.spec import SweepSpec, WorkerNeeds
from orchestrator.stages.base import Count
from orchestrator.stages.sweep.plan import count, counted, plan, plan_again
from orchestrator.stages.sweep.planned import EMPTY, Plan, from_table, joined
from orchestrator.stages.sweep.rows import PlannedRow
from orchestrator.stages.sweep.variants import random_sites, windows
from orchestrator.store.checksums import encode_table
from tests.support.plans import cells, drawn, key, keys

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
    return Resolved(models=models, attributes=named_attributes(spec), scorer=scorer)


def sweep(**changes: Any) -> SweepSpec:
    content: dict[str, Any] = {
        "name": "s", "models": ["m"], "attributes": ["style/velor"], "windows": {"sizes": [1, 2]}, "prompts": 2,
        "seeds": 2, "scorer": "toy-clip", "generation": {"steps": 10, "batch_size": 8},
    }  # fmt: skip
    return SweepSpec.model_validate({**content, **changes}, strict=False)


# Image and cell, as they were named when plans had a row per cell.
GOLDEN_WINDOW = (
    "8feb8ed2c8d7d2f6e8cba8157bb8eda7cb8581a5b3d24e7a4e966ac61dfec8d0",
    "207e345ee5c49addb83b2d443d33c1b686705a1ce5cc93916a371b7a75f8711c",
)
GOLDEN_IDENTITY = (
    "05fbecb92d0c63624545745e3a874dcd673b96f567a6905575f7d52c0650883f",
    "24615212f8bda769df6bef8cb79372503966a325e245e7dc33819865091de5bd",
)


def planned(spec: SweepSpec, known: Plan = EMPTY, **options: Any) -> Plan:
    return plan(spec, resolved_for(spec), known, **options)


def rows(spec: SweepSpec, units: Plan) -> list[PlannedRow]:
    return cells(spec, resolved_for(spec), units)


def assert_same(one: Count, other: Count) -> None:
    assert replace(one, seconds=0) == replace(other, seconds=0)
    assert one.seconds == pytest.approx(other.seconds)


def test_every_cell_is_planned_once_with_its_block() -> None:
    spec = sweep(attributes=["style/velor", "object/star"], models=["m", "n"])
    found = rows(spec, planned(spec))
    per_block = 2 + 2 + len(windows(spec, SITES)) + 2 * 2
    assert len(found) == 2 * 2 * 2 * 2 * per_block
    assert max(Counter(map(key, found)).values()) == 1


def test_seeds_are_outside_prompts_so_that_an_interrupted_sweep_holds_whole_seeds() -> None:
    spec = sweep(attributes=["style/velor", "object/star"], prompts=2, seeds=[5, 3])
    units = planned(spec).payloads()
    found = list(dict.fromkeys((unit.attribute, unit.seed, unit.prompt.record.prompt) for unit in units))
    prompts = {a.key: [record.prompt for record in a.records[:2]] for a in resolved_for(spec).attributes}
    assert found == [(str(a), s, p) for a in spec.attributes for s in (5, 3) for p in prompts[str(a)]]


def test_without_sizes_each_model_is_swept_up_to_the_largest_window_that_may_be_picked() -> None:
    spec, named = sweep(windows={}), sweep(windows={"sizes": [4, 1, 2, 3]})
    # What a sweep wrote out before sizes could be left out: the cells keep their names.
    assert planned(spec).units.equals(planned(named).units)
    for n_sites in (1, 3, SITES, 22, 57, 70):
        sizes = sorted({window.size for window in windows(spec, n_sites)})
        assert (sizes[0], sizes[-1]) == (1, spec.localize.largest(n_sites))
        assert all(large <= 2 * small for small, large in itertools.pairwise(sizes))
        assert spec.sizes(n_sites) == tuple(sizes)


def test_every_slice_has_the_clean_image_which_is_scored_once() -> None:
    spec = sweep(prompts=1, seeds=1)
    resolved = resolved_for(spec, seconds=60.0)
    units = plan(spec, resolved).payloads()
    assert len(units) > 2
    found = [drawn(spec, resolved, unit) for unit in units]
    assert all(unit[0].control == "clean" for unit in found)
    assert [unit[0].emit for unit in found] == [True] + [False] * (len(found) - 1)
    assert [row.control for unit in found for row in unit].count("donor") == 1
    assert len({unit.block for unit in units}) == 1


def test_ids_are_those_of_the_same_cells_computed_one_by_one() -> None:
    spec = sweep(
        interventions=[{}, {"part": "k", "steps": [2, 5]}, {"tokens": "words", "steps": [3, 10], "pooled": "donor"}],
        controls={"random": 1, "complement": True}, windows={"sizes": [1, 16]},
    )  # fmt: skip
    resolved = resolved_for(spec)
    generation = spec.generation.settings
    for unit in planned(spec).payloads():
        record = unit.prompt.record
        for row in drawn(spec, resolved, unit):
            texts = (record.prompt, record.prompt if row.control == "identity" else record.donor)
            prompt, donor = (record.donor, record.donor) if row.control == "donor" else texts
            image = identity.image_id(
                identity.ImageKey(
                    "weights of m", "float32", prompt, donor, unit.seed, row.variant.intervention, generation
                )
            )
            scored = (record.score_text, record.donor_text, record.content_text, record.siblings)
            assert row.image_id == image
            assert row.cell_id == identity.cell_id(identity.CellKey(image, "toy-clip", "c", *scored))


def test_ids_of_a_cell_are_what_they_were_when_plans_had_a_row_per_cell() -> None:
    options = {"part": "k", "steps": [2, 5]}
    spec = sweep(prompts=1, seeds=[3], windows={"sizes": [2]}, interventions=[options], margin="donor")
    found = {key(row)[2:5]: (row.image_id, row.cell_id) for row in rows(spec, planned(spec))}
    assert found["window", 4, 2] == GOLDEN_WINDOW
    assert found["identity", None, None] == GOLDEN_IDENTITY
    # Against siblings, too, the same picture is another cell of another unit.
    other = spec.model_copy(update={"margin": "siblings"})
    beside = {key(row)[2:5]: (row.image_id, row.cell_id) for row in rows(other, planned(other))}
    assert {place: image for place, (image, _) in beside.items()} == {
        place: image for place, (image, _) in found.items()
    }
    assert not {cell for _, cell in beside.values()} & {cell for _, cell in found.values()}
    assert not set(planned(other).unit_ids) & set(planned(spec).unit_ids)


def test_a_plan_survives_its_file() -> None:
    spec = sweep(attributes=["style/velor", "object/star"], interventions=[{}, {"part": "k", "steps": [2, 5]}])
    units = planned(spec)
    found = from_table(units.to_table())
    assert found.payloads() == units.payloads()
    assert found.units.equals(units.units)


def test_a_plan_of_an_older_version_goes_on_against_the_donor_alone() -> None:
    spec = sweep(margin="donor")
    table = planned(spec).to_table()
    (key, text), *_ = (table.schema.metadata or {}).items()
    lists = json.loads(text)
    for prompt in lists["prompts"]:
        assert prompt["record"].pop("siblings") == []
    older = from_table(table.replace_schema_metadata({key: json.dumps(lists)}))
    assert older.payloads() == planned(spec).payloads()
    assert not len(planned(spec, older))
    check_texts("results", older, named_attributes(spec))
    with pytest.raises(SpecError, match=r"results: pictures of style/velor .* put margin: donor into the sweep, or"):
        check_texts("results", older, named_attributes(sweep()))
    others = [replace(item, records=tuple(replace(record, donor_text="a photo") for record in item.records))
              for item in named_attributes(spec)]  # fmt: skip
    with pytest.raises(SpecError, match=r"scored against other texts than the sweep's now; write to a new folder"):
        check_texts("results", older, others)


def test_a_plan_file_is_read_by_pandas(tmp_path: Path) -> None:
    spec = sweep()
    units = planned(spec)
    (tmp_path / "plan.parquet").write_bytes(encode_table(units.to_table()))
    frame = pd.read_parquet(tmp_path / "plan.parquet")
    assert set(frame["attribute"]) == {"style/velor"}
    assert frame["cells"].sum() == len(rows(spec, units))


def test_a_unit_is_named_by_what_it_is() -> None:
    small, large = sweep(seeds=1), sweep(seeds=3, prompts=3, models=["n", "m"])
    first = planned(small).units["unit_id"].to_pylist()
    assert set(first) < set(planned(large).units["unit_id"].to_pylist())
    assert len(set(first)) == len(first)
    everything = planned(small)
    for other in (
        planned(sweep(seeds=1, name="other")),
        planned(sweep(seeds=[1])),
        planned(sweep(seeds=1, models=["n"])),
        planned(sweep(seeds=1, attributes=["object/star"])),
        planned(sweep(seeds=1, windows={"sizes": [1]})),
        plan_again(small, resolved_for(small), everything, EMPTY, len(everything), 1),
    ):
        assert not set(first) & set(other.units["unit_id"].to_pylist())


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
    first = planned(small)
    added = planned(large, first)
    both = first + added
    assert keys(rows(large, both)) == keys(rows(large, planned(large)))
    assert max(Counter(map(key, rows(large, both))).values()) == 1
    assert not len(planned(large, both))
    assert not len(planned(large, from_table(both.to_table())))
    orders = both.column("unit_order").tolist()
    assert orders == list(range(len(both)))
    assert not set(first.units["unit_id"].to_pylist()) & set(added.units["unit_id"].to_pylist())
    assert_same(count(large, resolved_for(large), first), counted(added))


def test_blocks_that_differ_in_what_is_planned_are_cut_each_on_its_own() -> None:
    spec = sweep(prompts=2, seeds=4)
    whole = planned(spec)
    generator = np.random.default_rng(0)
    for _ in range(5):
        some = whole.take(generator.random(len(whole)) < 0.5)
        rest = planned(spec, some)
        assert keys(rows(spec, rest)) == keys(rows(spec, whole)) - keys(rows(spec, some))
        assert len(rows(spec, rest)) == len(rows(spec, whole)) - len(rows(spec, some))


def test_complements_are_planned_on_top() -> None:
    spec = sweep()
    units = planned(spec, planned(spec), requests={("m", "style/velor"): [Request("complement", Window(3, 2))]})
    emitted = rows(spec, units)
    assert len(emitted) == 4
    assert {row.control for row in emitted} == {"complement"}
    assert all(set(row.intervention.sites) == set(range(SITES)) - {3, 4} for row in emitted)


def test_requests_are_planned_on_the_first_prompts_and_seeds_alone() -> None:
    spec, controls = sweep(prompts=3, seeds=4), ("clean", "donor", "identity", "all_sites", "window")
    block, window = ("m", "style/velor"), Window(3, 2)
    few = planned(spec, requests={block: [Request("window", window, 2, 1)]})
    found = rows(spec, few)
    assert Counter(row.control for row in found) == dict.fromkeys(controls, 2)
    assert {row.seed for row in found} == {0}
    more = rows(spec, planned(spec, few, requests={block: [Request("window", window)]}))
    assert Counter(row.control for row in more) == dict.fromkeys(controls, 10)
    assert not len(planned(spec, requests={("m", "style/other"): [Request("window", window)]}))


def test_failed_cells_alone_are_planned_again_in_a_new_round() -> None:
    spec = sweep()
    whole = planned(spec)
    failed = whole.take(np.array([1, 3]))
    again = plan_again(spec, resolved_for(spec), failed, EMPTY, len(whole), 1)
    assert keys(rows(spec, again)) == keys(rows(spec, failed))
    assert set(again.column("round").tolist()) == {1}
    assert again.column("unit_order").tolist() == list(range(len(whole), len(whole) + len(again)))
    assert not set(again.units["unit_id"].to_pylist()) & set(whole.units["unit_id"].to_pylist())
    # What waits to be run is not asked for twice.
    assert not len(plan_again(spec, resolved_for(spec), failed, again, 0, 2))
    both = joined([whole, again])
    assert both.cells_of("m", "style/velor") == len(rows(spec, whole))
    assert not len(planned(spec, both))


def test_a_record_that_is_named_twice_is_one_block() -> None:
    spec = sweep(prompts=3, seeds=2)
    resolved = resolved_for(spec)
    (known,) = resolved.attributes
    doubled = replace(known, records=(known.records[0], known.records[0], known.records[1]))
    resolved = resolved.model_copy(update={"attributes": (doubled,)})
    found = cells(spec, resolved, plan(spec, resolved))
    assert max(Counter(map(key, found)).values()) == 1
    assert {row.unit.prompt.record for row in found} == set(known.records[:2])


def test_random_sets_are_prefix_stable() -> None:
    assert random_sites(SITES, 3, 5)[:2] == random_sites(SITES, 3, 2)


def test_random_sets_are_all_different_and_no_more_than_there_are() -> None:
    assert len(set(random_sites(SITES, 2, 60))) == 60
    assert sorted(random_sites(4, 1, 10)) == [(0,), (1,), (2,), (3,)]


def test_the_donor_prompt_takes_all_options_full() -> None:
    spec = sweep(interventions=[{"part": "k", "steps": [2, 5]}])
    found = rows(spec, planned(spec))
    donors = [row for row in found if row.control == "donor"]
    assert all(row.engine_row.prompt == row.unit.prompt.record.donor for row in donors)
    assert all(not row.intervention.sites for row in donors)
    swept = {row.intervention for row in found if row.control == "window"}
    assert {(does.part, does.step_start, does.step_end) for does in swept} == {("k", 2, 5)}


def test_an_intervention_up_to_the_last_step_is_one_however_it_is_written() -> None:
    spec, written = sweep(), sweep(interventions=[{}, {"steps": [0, 10]}])
    assert not len(planned(written, planned(spec)))
    assert {row.intervention.step_end for row in rows(spec, planned(spec))} == {10}


def test_identical_images_have_one_identity_whatever_their_label() -> None:
    spec = sweep(windows={"sizes": [1, 16]}, controls={"random": 0})
    first = [row for row in rows(spec, planned(spec)) if row.unit.unit_id == planned(spec).payloads()[0].unit_id]
    whole = {row.image_id for row in first if row.variant.window_size == 16}
    assert whole == {row.image_id for row in first if row.control == "all_sites"}
    assert whole != {row.image_id for row in first if row.control == "identity"}


@pytest.mark.parametrize("seconds", [0.001, 0.5, 5.0])
def test_units_are_never_empty(seconds: float) -> None:
    spec = sweep()
    units = plan(spec, resolved_for(spec, seconds))
    assert units.column("cells").min() > 0


def test_batches_of_a_unit_are_few_and_of_equal_size() -> None:
    spec = sweep(generation={"steps": 10, "batch_size": 30}, windows={"sizes": [1, 2]}, controls={"random": 0})
    units = planned(spec)
    (unit, *_) = units.payloads()
    images = len({row.image_id for row in drawn(spec, resolved_for(spec), unit)})
    assert images == 35 == units.column("images")[0]
    assert unit.batch_size == 18


def test_images_are_counted_once_whatever_their_labels() -> None:
    spec = sweep(windows={"sizes": [1, 16]}, controls={"random": 1})
    resolved = resolved_for(spec)
    (known,) = resolved.attributes
    same = replace(known.records[0], donor=known.records[0].prompt)
    resolved = resolved.model_copy(update={"attributes": (replace(known, records=(same, *known.records[1:])),)})
    units = plan(spec, resolved)
    images = [{row.image_id for row in drawn(spec, resolved, u)} for u in units.payloads()]
    assert units.column("images").tolist() == list(map(len, images))
    assert len(set(map(len, images))) == 2
    assert_same(count(spec, resolved), counted(units))
