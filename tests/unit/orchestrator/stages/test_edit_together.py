from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from loco_core.attributes import attribute
from loco_core.errors import SpecError
from orchestrator.resolve.editable import check_editors, check_records
from orchestrator.resolve.lookup import resolve
from orchestrator.spec import SweepSpec, load_sweep
from orchestrator.stages.edit.candidates import (
    candidates,
    candidates_together,
    edits_in_turn,
    restored_in_turn,
    restored_together,
)
from orchestrator.stages.edit.chooser import choose
from orchestrator.stages.edit.count import count_edits
from orchestrator.stages.edit.missing import as_chosen
from orchestrator.stages.edit.plan import Part, PlannedEdit, probes
from orchestrator.stages.edit.summary import EditSummary, Share, share
from tests.support.edit_specs import STYLE, TOY, VELOR, replaced, spec

FACT = attribute("fact/zandia")
NAMES = ["style/lumio", "style/velor", "fact/zandia"]
PAIRED = {"editors": ["loco_edit", "uce"], "targets": "paired", "lambdas": [0.1], "tokens": ["all"]}
PARTS = (Part(FACT, (8, 9)), Part(STYLE, (9, 10)))


def of(*parts: Part, **edit: Any) -> list[PlannedEdit]:
    return candidates_together(spec(attributes=NAMES, edit={**PAIRED, **edit}), TOY, parts)


def test_an_edit_of_several_attributes_is_named_by_all_that_changes_its_weights() -> None:
    (first,) = of(*PARTS)
    assert (first.sites, first.attributes, first.scope) == ((8, 9, 10), ("fact/zandia", "style/lumio"), "together")
    assert [edit.edit_id for edit in of(*PARTS, neurons=[0.5])] == [first.edit_id]
    others = [
        of(Part(FACT, (8, 9, 10)), PARTS[1]), of(Part(FACT, (9, 10)), Part(STYLE, (8, 9))), of(*PARTS, preserve=0),
        of(Part(FACT, (8, 9)), Part(VELOR, (9, 10))), of(*PARTS, lambdas=[0.2]),
        candidates_together(spec(attributes=NAMES, edit=PAIRED), replaced(TOY), PARTS),
        candidates(spec(attributes=NAMES, edit=PAIRED), TOY, STYLE, (9, 10), "localized"),
    ]  # fmt: skip
    ids = {edit.edit_id for each in others for edit in each}
    assert len(ids) == len(others)
    assert first.edit_id not in ids


def test_candidates_are_those_of_settings_that_all_attributes_have() -> None:
    """A fact with no published texts keeps the group from being edited as published."""
    both = {"targets": ["published", "paired"]}
    assert STYLE.published_records("loco_edit")
    styles = of(Part(STYLE, (8, 9)), Part(VELOR, (8, 9)), **both)
    assert {edit.settings.targets for edit in styles} == {"published", "paired"}
    own = Part(replace(FACT, published=()), (8, 9))
    assert {edit.settings.targets for edit in of(own, PARTS[1], **both)} == {"paired"}


def test_an_edit_is_fitted_again_from_its_rows() -> None:
    sweep = spec(attributes=NAMES, edit=PAIRED)
    (edit,) = of(*PARTS)
    rows = [
        {
            "edit_id": edit.edit_id, "attribute": part.attribute.key, "attributes": list(edit.attributes),
            "site_indices": list(part.sites), "settings": edit.settings.model_dump_json(),
        }
        for part in PARTS
    ]  # fmt: skip
    known = {item.key: item for item in (STYLE, VELOR, FACT)}
    assert restored_together(sweep, TOY, known, rows[::-1]) == edit
    assert restored_together(sweep, TOY, known, rows[:1]) is None
    assert restored_together(sweep, replaced(TOY), known, rows) is None
    assert restored_together(sweep.model_copy(update={"prompts": 5}), TOY, known, rows) is None


def test_prompts_of_what_is_edited_are_unrelated_to_nothing() -> None:
    sweep = spec(attributes=NAMES, evaluate={"prompts": 12, "seeds": 1})
    colour = next(item for item in (FACT, STYLE) if item.mode == "replace")
    others = {record.prompt for record in STYLE.records}
    drawn = [probe.record.prompt for probe in probes(sweep, colour, (), "report") if probe.role == "unrelated"]
    without = probes(sweep, colour, (), "report", edited=("style/lumio", "fact/zandia"))
    assert others & set(drawn)
    assert not others & {probe.record.prompt for probe in without if probe.role == "unrelated"}


def test_plan_counts_what_groups_take() -> None:
    def counted(groups: Any) -> int:
        wanted = spec(attributes=NAMES, edit={**PAIRED, "together": groups})
        return count_edits(wanted, resolve(wanted)).images

    none, one, two = counted([]), counted(NAMES[:2]), counted([NAMES[:2], NAMES[1:]])
    assert none < one < two


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        (["style/lumio"], "at least 2"),
        (["style/lumio", "style/lumio"], "'style/lumio' is given more than once"),
        (["style/lumio", "style/velours"], "'style/velours' is none of the attributes; did you mean"),
        ([NAMES[:2], [NAMES[1], NAMES[0]]], "more than once"),
    ],
)
def test_groups_that_cannot_be_edited_are_refused_in_a_line(groups: Any, message: str, tmp_path: Path) -> None:
    file = tmp_path / "sweep.yaml"
    file.write_text(f"name: s\nmodels: toy\nattributes: {NAMES}\nscorer: toy-clip\nedit: {{together: {groups}}}\n")
    with pytest.raises(SpecError) as raised:
        load_sweep(file)
    assert message in str(raised.value)
    assert "together" in str(raised.value)


def test_an_editor_of_one_attribute_at_a_time_is_refused_beside_groups(tmp_path: Path) -> None:
    file = tmp_path / "single.py"
    file.write_text(
        "from loco_core.editing.base import EditorInfo\n"
        "from loco_core.editing.editors.loco_edit import edit\n"
        "INFO = EditorInfo(together=False)\n"
    )
    wanted = {"editors": [str(file)], "targets": "paired"}
    check_editors(spec(attributes=NAMES, edit=wanted), (STYLE, VELOR, FACT))
    with pytest.raises(SpecError, match="one attribute at a time; leave it out"):
        check_editors(spec(attributes=NAMES, edit={**wanted, "together": NAMES[:2]}), (STYLE, VELOR, FACT))


def test_a_group_with_an_attribute_that_cannot_be_edited_is_refused() -> None:
    few = {
        "kind": "style", "name": "few", "mode": "remove",
        "records": [{"prompt": "a b", "donor": "a", "score_text": "b", "donor_text": "a", "content_text": "a"}],
    }  # fmt: skip

    def checked(**edit: Any) -> tuple[str, ...]:
        sweep: SweepSpec = spec(attributes=["style/lumio", few], prompts=1, edit={**PAIRED, **edit})
        return check_records(sweep, resolve(sweep).attributes)

    assert len(checked()) == 1
    with pytest.raises(SpecError, match="style/few"):
        checked(together=["style/lumio", "style/few"])


def test_one_group_may_stand_without_a_list_around_it() -> None:
    assert spec(attributes=NAMES, edit={"together": NAMES[:2]}) == spec(
        attributes=NAMES, edit={"together": [NAMES[:2]]}
    )


def test_choose_takes_the_mean_over_attributes_and_the_worst_loss() -> None:
    nothing = Share(0, 0, 0.0, 0.0)

    def summary(edit: PlannedEdit, name: str, flipped: int, kept: int) -> EditSummary:
        pictures = {("p", seed): seed < flipped for seed in range(10)}
        spared = {("n", seed): seed < kept for seed in range(10)}
        return EditSummary(
            edit.edit_id, "toy", name, "loco_edit", "paired", "together", False, (8,), "", share(pictures), nothing,
            share(spared), nothing, nothing, nothing,
        )  # fmt: skip

    first, *_ = of(*PARTS)
    weak, strong, harsh = (replace(first, edit_id=name) for name in ("weak", "strong", "harsh"))
    measured = [
        summary(weak, "a", 9, 10), summary(weak, "b", 1, 10), summary(strong, "a", 6, 10), summary(strong, "b", 6, 10),
        summary(harsh, "a", 10, 10), summary(harsh, "b", 10, 5),
    ]  # fmt: skip
    assert choose([weak, strong, harsh], measured, 0.1) == {"strong"}
    assert choose([weak, strong, harsh], measured, 0.6) == {"harsh"}


def test_steps_of_a_sequence_are_named_by_all_before_them_and_by_the_whole() -> None:
    sweep = spec(attributes=NAMES, edit=PAIRED)
    alone = {part.attribute.key: candidates(sweep, TOY, part.attribute, part.sites, "localized") for part in PARTS}

    def in_turn(*parts: Part, **chosen: list[PlannedEdit]) -> list[PlannedEdit]:
        return edits_in_turn(TOY, parts, [chosen.get(p.attribute.name, alone[p.attribute.key]) for p in parts])

    one, two = in_turn(*PARTS)
    assert [len(edit.steps) for edit in (one, two)] == [1, 2]
    assert (one.sites, two.sites) == ((8, 9), (8, 9, 10))
    assert one.attributes == two.attributes == ("fact/zandia", "style/lumio")
    swapped = in_turn(*PARTS[::-1])
    other = candidates(spec(attributes=NAMES, edit={**PAIRED, "lambdas": [0.3]}), TOY, STYLE, (9, 10), "localized")
    same, changed = in_turn(*PARTS, lumio=other)
    assert same.edit_id == one.edit_id
    # What the first step was changes what the second one finds, at the same settings.
    before = candidates(spec(attributes=NAMES, edit={**PAIRED, "lambdas": [0.3]}), TOY, FACT, (8, 9), "localized")
    assert in_turn(*PARTS, zandia=before)[1].edit_id != two.edit_id
    ids = {one.edit_id, two.edit_id, changed.edit_id, *(edit.edit_id for edit in swapped)}
    ids |= {edit.edit_id for edits in alone.values() for edit in edits}
    assert len(ids) == 7
    assert in_turn(*PARTS, lumio=[]) == []


def test_a_step_is_fitted_again_from_the_rows_of_its_sequence() -> None:
    sweep = spec(attributes=NAMES, edit=PAIRED)
    alone = [candidates(sweep, TOY, part.attribute, part.sites, "localized") for part in PARTS]
    edits = edits_in_turn(TOY, PARTS, alone)
    rows = [
        {
            "edit_id": edit.edit_id, "attribute": part.attribute.key, "attributes": list(edit.attributes), "base": None,
            "site_indices": list(part.sites), "settings": edit.settings.model_dump_json(), "step": len(edit.steps),
            "editor": edit.settings.editor, "targets": edit.settings.targets, "scope": edit.scope,
        }
        for edit in edits for part in PARTS
    ]  # fmt: skip
    known = {item.key: item for item in (STYLE, VELOR, FACT)}
    assert [restored_in_turn(sweep, TOY, known, row, rows) for row in rows] == [edits[0]] * 2 + [edits[1]] * 2
    assert restored_in_turn(sweep, TOY, known, rows[-1], rows[2:]) is None
    assert restored_in_turn(sweep, replaced(TOY), known, rows[-1], rows) is None


def test_every_step_of_a_sequence_counts_as_chosen() -> None:
    """Their settings may differ, and each is held against the one before it."""
    place = {"model": "toy", "attribute": "style/lumio", "localization": "sequence: a > b"}
    steps = [{**place, "step": step, "settings": f"lambda {step}", "chosen": step == 3} for step in (1, 2, 3)]
    others = [
        {**place, "localization": "window", "step": None, "settings": name, "chosen": chosen}
        for name, chosen in (("a", True), ("a", None), ("b", False))
    ]
    assert as_chosen([*steps, *others]) == [*steps, *others[:2]]


def test_plan_counts_the_pictures_after_every_step() -> None:
    def counted(names: list[str]) -> int:
        wanted = spec(attributes=NAMES, edit={**PAIRED, "editors": ["loco_edit"], "sequence": names})
        return count_edits(wanted, resolve(wanted)).images

    none, two, three = counted([]), counted(NAMES[:2]), counted(NAMES)
    # Every probe of every attribute after each step, and without an edit.
    assert 0 < two - none < three - none
    assert (two - none) % 3 == (three - none) % 4 == 0


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["style/lumio", "style/lumio"], "more than once"),
        (["style/lumio", "style/velours"], "none of the attributes"),
        ([NAMES[:2], NAMES[:2]], "more than once"),
    ],
)
def test_sequences_that_cannot_be_edited_are_refused_in_a_line(names: Any, message: str, tmp_path: Path) -> None:
    file = tmp_path / "sweep.yaml"
    file.write_text(f"name: s\nmodels: toy\nattributes: {NAMES}\nscorer: toy-clip\nedit: {{sequence: {names}}}\n")
    with pytest.raises(SpecError, match=message) as raised:
        load_sweep(file)
    assert "sequence" in str(raised.value)
    # The order is all that tells these two apart.
    assert spec(attributes=NAMES, edit={"sequence": [NAMES[:2], NAMES[1::-1]]}).edit is not None
