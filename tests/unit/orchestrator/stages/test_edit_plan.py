from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loco_core.attributes import bundled, of_other_kinds, siblings
from loco_core.editing.splits import splits
from loco_core.errors import SpecError
from loco_core.types import PromptRecord
from orchestrator.spec.attributes import RecordSpec
from orchestrator.stages.edit.candidates import candidates
from orchestrator.stages.edit.plan import (
    FIRST_SEED,
    check_editable,
    evaluate_units,
    measured_pair,
    pair,
    probes,
    watched,
)
from orchestrator.store import layout
from tests.support.edit_specs import STYLE, TOY, VELOR, replaced, spec


def test_probes_have_every_role_and_seeds_that_no_sweep_uses() -> None:
    select, report = (probes(spec(), STYLE, [VELOR], split) for split in ("select", "report"))  # type: ignore[arg-type]
    assert {probe.role for probe in select} == {"target", "neighbour", "unrelated"}
    assert {probe.role for probe in report} == {"target", "paraphrase", "neighbour", "unrelated"}
    assert sum(probe.role == "target" for probe in report) == 3 * 2
    assert {p.seed for p in select} == {FIRST_SEED["select"], FIRST_SEED["select"] + 1}
    assert not {p.seed for p in select} & {p.seed for p in report}
    assert all("velor" in p.record.prompt for p in report if p.role == "neighbour")
    assert all("style" not in p.record.prompt for p in report if p.role == "unrelated")
    familiar = {r.template_id for r in splits(STYLE, 4)["fit"]}
    assert all(
        (p.record.template_id in familiar) == (p.role == "target") for p in report if p.role in ("target", "paraphrase")
    )


@pytest.mark.parametrize("split", ["select", "report"])
@pytest.mark.parametrize("key", sorted(bundled()))
@pytest.mark.parametrize("prompts", [1, 4, 16])
def test_no_picture_of_an_evaluation_is_drawn_for_two_roles(
    key: str, prompts: int, split: Literal["select", "report"]
) -> None:
    item, s = bundled()[key], spec(attributes=[key], prompts=prompts, evaluate={"prompts": 8, "seeds": 1})
    kind = [other for other in (item, *siblings(key)) if other.key != key]
    # Whichever neighbours are the nearest.
    for neighbours in (kind[:2], kind[-3:], kind):
        drawn = probes(s, item, neighbours, split)
        pictures = [(" ".join(probe.record.prompt.casefold().split()), probe.seed) for probe in drawn]
        assert len(set(pictures)) == len(pictures)
        roles = {probe.role for probe in drawn}
        assert {"target", "unrelated"} <= roles
        assert ("donor" in roles) == (item.mode == "replace" and split == "report")
        donors = {record.donor for record in item.records}
        for probe in drawn:
            if probe.role == "neighbour":
                assert probe.record.prompt not in donors
            if probe.role == "unrelated":
                assert item.mode == "remove" or probe.record.prompt not in donors
                assert probe.record.prompt == probe.record.donor


@pytest.mark.parametrize("key", [key for key, item in sorted(bundled().items()) if item.mode == "replace"])
def test_unrelated_prompts_name_neither_what_is_replaced_nor_what_replaces_it(key: str) -> None:
    item = bundled()[key]
    drawn = probes(spec(attributes=[key], evaluate={"prompts": 16, "seeds": 1}), item, siblings(key), "report")
    unrelated = [probe.record.prompt.casefold() for probe in drawn if probe.role == "unrelated"]
    assert len(unrelated) == 16
    names = {text.casefold().removeprefix("a ").removeprefix("an ") for record in item.records[:1] for text in (
        record.score_text, record.donor_text)}  # fmt: skip
    names |= {item.name, *(name.removeprefix("photo of ").removesuffix(" shape") for name in names)}
    assert not [prompt for prompt in unrelated for name in names if f" {name} " in f" {prompt} "]
    # Not all of one kind.
    kinds: dict[str, set[str]] = {}
    for other in of_other_kinds(key):
        kinds.setdefault(other.kind, set()).update(record.prompt.casefold() for record in other.records)
    assert len([kind for kind, prompts in kinds.items() if prompts & set(unrelated)]) >= 2


def test_an_attribute_of_a_kind_of_its_own_takes_unrelated_prompts_from_the_sweep() -> None:
    records = tuple(
        PromptRecord(f"a {word} dog", f"a {word} cat", "dog", "cat", word, f"t{n % 2}")
        for n, word in enumerate(("red", "blue", "green", "grey", "black", "white"))
    )
    own = {
        "kind": "animal",
        "name": "dog",
        "mode": "replace",
        "records": [{name: getattr(record, name) for name in RecordSpec.model_fields} for record in records],
    }
    for others, expected in (
        ([], set()),
        (["style/lumio"], {"style"}),
        (["style/lumio", "fact/zandia"], {"style", "flag"}),
    ):
        s = spec(attributes=[own, *others], prompts=1, evaluate={"prompts": 4, "seeds": 1})
        item = s.attributes[0].attribute  # type: ignore[union-attr]
        texts = [probe.record.prompt for probe in probes(s, item, [], "report") if probe.role == "unrelated"]
        assert {word for word in ("style", "flag") if any(word in text for text in texts)} == expected


def test_units_cover_every_edit_on_every_probe_once() -> None:
    s = spec()
    edits, drawn = candidates(s, TOY, STYLE, (8, 9), "localized"), probes(s, STYLE, [VELOR], "report")
    slow = replaced(TOY).model_copy(update={"seconds_per_image": 20.0})
    units = evaluate_units(s, slow, STYLE, edits, "", drawn, "report", 5)
    assert len(units) > 2
    pairs = [(edit.edit_id, probe) for unit in units for edit in unit.payload.edits for probe in unit.payload.probes]
    assert len(pairs) == len(set(pairs)) == len(edits) * len(drawn)
    assert len({unit.unit_id for unit in units}) == len(units)
    assert [unit.order for unit in units] == list(range(5, 5 + len(units)))
    assert all(len(unit.payload.probes) <= unit.payload.batch_size <= 16 for unit in units)


@settings(deadline=None, max_examples=30)
@given(st.data())
def test_what_is_measured_is_left_out_and_the_rest_is_cut_as_it_was(data: st.DataObject) -> None:
    s = spec(generation={"steps": 4, "batch_size": data.draw(st.integers(1, 30))})
    slow = TOY.model_copy(update={"seconds_per_image": data.draw(st.sampled_from([0.1, 5.0, 50.0]))})
    edits = candidates(s, slow, STYLE, (8, 9), "localized")
    drawn = probes(s, STYLE, [VELOR], "report")[: data.draw(st.integers(1, 24))]
    units = evaluate_units(s, slow, STYLE, edits, "", drawn, "report", 0)
    done = data.draw(st.sets(st.sampled_from(units)))
    measured = {pair(edit, probe) for unit in done for edit in unit.payload.edits for probe in unit.payload.probes}
    rest = evaluate_units(s, slow, STYLE, edits, "", drawn, "report", 0, measured)
    assert {unit.unit_id for unit in rest} == {unit.unit_id for unit in units} - {unit.unit_id for unit in done}
    assert {unit.payload.batch_size for unit in rest} <= {unit.payload.batch_size for unit in units}


def test_more_probes_are_measured_without_those_that_were() -> None:
    few, many = spec(), spec(evaluate={"prompts": 4, "seeds": 3})
    edits = candidates(few, TOY, STYLE, (8, 9), "localized")
    before, wanted = probes(few, STYLE, [VELOR], "report"), probes(many, STYLE, [VELOR], "report")
    measured = {pair(edit, probe) for edit in edits for probe in before}
    units = evaluate_units(many, TOY, STYLE, edits, "", wanted, "report", 0, measured)
    pairs = [pair(edit, probe) for unit in units for edit in unit.payload.edits for probe in unit.payload.probes]
    assert len(pairs) == len(set(pairs))
    assert set(pairs) == {pair(edit, probe) for edit in edits for probe in wanted} - measured
    assert not evaluate_units(many, TOY, STYLE, edits, "", wanted, "report", 0, {*measured, *pairs})


@pytest.mark.parametrize("change", [{"siblings": ("others",)}, {"siblings": ()}, {"donor_text": "a thing"}])
def test_a_margin_against_other_texts_is_measured_anew(change: dict[str, Any]) -> None:
    s = spec()
    edits, drawn = candidates(s, TOY, STYLE, (8, 9), "localized"), probes(s, STYLE, [VELOR], "select")
    others = [replace(probe, record=replace(probe.record, **change)) for probe in drawn if probe.role == "neighbour"]
    rows = [
        {"edit_id": edits[0].edit_id, "scope": "localized", "prompt_role": probe.role, "prompt": probe.record.prompt,
         "clip_text": probe.record.score_text, "seed": probe.seed, "judge": None,
         "margin_texts": list(probe.record.against)}
        for probe in drawn
    ]  # fmt: skip
    measured = {measured_pair(row) for row in rows}
    assert not evaluate_units(s, TOY, STYLE, edits[:1], "", drawn, "select", 0, measured)
    units = evaluate_units(s, TOY, STYLE, edits[:1], "", others, "select", 0, measured)
    assert {probe for unit in units for probe in unit.payload.probes} == set(others)
    before = evaluate_units(s, TOY, STYLE, edits[:1], "", [p for p in drawn if p.role == "neighbour"], "select", 0)
    assert not {unit.unit_id for unit in units} & {unit.unit_id for unit in before}
    # Of an earlier version nobody knows what a margin was taken against.
    older = {measured_pair({**row, "margin_texts": None}) for row in rows}
    assert len(evaluate_units(s, TOY, STYLE, edits[:1], "", drawn, "select", 0, older)) == len(
        evaluate_units(s, TOY, STYLE, edits[:1], "", drawn, "select", 0)
    )


def test_an_edit_by_hand_has_the_same_weights_and_units_of_its_own() -> None:
    s = spec()
    found, named = (candidates(s, TOY, STYLE, (8, 9), scope) for scope in ("localized", "by_hand"))  # type: ignore[arg-type]
    assert [edit.edit_id for edit in found] == [edit.edit_id for edit in named]
    drawn = probes(s, STYLE, [VELOR], "select")
    units = [
        {unit.unit_id for unit in evaluate_units(s, TOY, STYLE, edits, "", drawn, "select", 0)}
        for edits in (found, named)
    ]
    assert not units[0] & units[1]


def test_weights_of_an_edit_are_named_after_what_is_in_them() -> None:
    names = {layout.delta("a", scope, data * 64) for scope in ("by_hand", "localized") for data in "01"}
    assert len(names) == 4
    assert all(map(layout.is_delta, names))


def test_a_prompt_that_equals_its_donor_is_refused_when_it_is_planned() -> None:
    check_editable(STYLE, 4, TOY)
    last = STYLE.records[-1]
    same = replace(STYLE, records=(*STYLE.records[:-1], replace(last, donor=f" {last.prompt}")))
    with pytest.raises(SpecError, match=f'style/lumio: the prompt "{last.prompt}" equals its donor; nothing to edit'):
        check_editable(same, 4, TOY)


def test_neighbours_without_prompts_enough_are_passed_over() -> None:
    few = replace(VELOR, name="few", records=VELOR.records[:1])
    known = {item.key: item for item in (few, VELOR, STYLE)}
    assert watched(spec(), known, ["style/few", "style/gone", "style/velor", "style/lumio"]) == [VELOR, STYLE]
    assert watched(spec(evaluate={"neighbours": 1}), known, ["style/few", "style/velor", "style/lumio"]) == [VELOR]


def test_another_judge_measures_anew() -> None:
    names = []
    for judge in ("toy-judge", None):
        wanted = spec()
        edits = candidates(wanted, TOY, STYLE, (8,), "localized")
        drawn = probes(wanted, STYLE, [VELOR], "report", judge)
        names.append({unit.unit_id for unit in evaluate_units(wanted, TOY, STYLE, edits, "", drawn, "report", 0)})
    assert not names[0] & names[1]


def test_units_are_short_where_the_sweep_asks_for_it_and_follow_what_was_measured() -> None:
    def lengths(seconds: float, unit_seconds: float = 300.0, probed: float | None = None) -> set[int]:
        s = spec(generation={"steps": 50, "batch_size": 4, "unit_seconds": unit_seconds})
        update = {"seconds_per_image": seconds, "probed_seconds": probed}
        model = replaced(TOY).model_copy(update=update)
        edits, drawn = candidates(s, model, STYLE, (8, 9), "localized"), probes(s, STYLE, [VELOR], "report")
        return {len(unit.payload.edits) for unit in evaluate_units(s, model, STYLE, edits, "", drawn, "report", 0)}

    assert max(lengths(1.0)) == 6
    assert max(lengths(1.0, unit_seconds=24)) == 5
    assert max(lengths(6.0)) == 4
    assert lengths(6.0, probed=1.0) == lengths(1.0)
