from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from loco_core.errors import SpecError
from orchestrator.resolve.editable import check_records
from orchestrator.resolve.lookup import resolve
from orchestrator.resolve.options import check_methods, unedited_models
from orchestrator.stages.edit.places import method_places
from orchestrator.stages.edit.plan import check_editable
from tests.support.edit_specs import METHODS, STYLE, TOY, spec
from tests.support.sweeps import tiny_sweep


@pytest.mark.parametrize(
    ("changes", "message", "loc"),
    [
        ({"attributes": ["colour/red"], "edit": {"targets": "published"}},
         r"colour/red has no texts to be edited on by loco_edit as published; add published: \{loco_edit: \{keys: "
         r"\[..\], anchors: \[..\]\}\} to the attribute, or expected targets: paired", ("edit", "targets")),
        ({"edit": {"editors": ["neurons"], "targets": ["published"]}},
         "neurons was published with no texts of its own; expected no targets", ("edit", "targets")),
        ({"edit": {"targets": "paired", "method_lambdas": {"loco_edit": [1]}}},
         "loco_edit has an absolute lambda as published alone", ("edit", "method_lambdas", "loco_edit")),
        ({"edit": {"method_lambdas": {"neurons": [1]}}},
         "neurons is no published method", ("edit", "method_lambdas", "neurons")),
    ],
)  # fmt: skip
def test_targets_that_nothing_is_known_of_are_refused_when_planned(
    changes: dict[str, Any], message: str, loc: tuple[str, ...]
) -> None:
    with pytest.raises(SpecError, match=message) as error:
        resolve(spec(**changes))
    assert error.value.loc == loc


def test_an_attribute_written_out_brings_its_published_texts() -> None:
    records = [
        {"prompt": f"{item} in fog", "donor": item, "score_text": "fog", "donor_text": "a photo", "content_text": item}
        for item in ("a house", "a street", "a bridge", "a train")
    ]
    texts = {"loco_edit": {"keys": ["fog", "a photo of fog"], "anchors": ["a photo"]}}
    fog = {"kind": "style", "name": "fog", "mode": "remove", "records": records, "published": texts}
    found = resolve(spec(attributes=[fog], edit={"editors": ["loco_edit"], "targets": "published"}))
    (item,) = found.attributes
    assert [(r.prompt, r.donor) for r in item.published_records("loco_edit")] == [
        ("fog", "a photo"), ("a photo of fog", "a photo"),
    ]  # fmt: skip
    wrong = {**fog, "published": {"loco_edti": texts["loco_edit"]}}
    with pytest.raises(SpecError, match='no editor "loco_edti"; did you mean "loco_edit"') as error:
        resolve(spec(attributes=[wrong]))
    assert error.value.loc == ("attributes", 0, "published", "loco_edti")


def test_a_method_that_no_model_admits_is_refused_and_others_are_passed_over() -> None:
    s = spec(edit=METHODS)
    t5 = TOY.model_copy(update={"id": "mine", "family": "pixart"})
    resolved = resolve(s)
    assert [place.editor for place in method_places(s, resolved, "toy", "style/lumio")] == ["uce", "diff_quick_fix"]
    both = resolved.model_copy(update={"models": (TOY, t5)})
    check_methods(s, both)
    assert [place.editor for place in method_places(s, both, "mine", "style/lumio")] == ["uce"]
    message = r"diff_quick_fix edits the CLIP text encoder .*; mine \(pixart\) reads T5-XXL"
    with pytest.raises(SpecError, match=message) as error:
        check_methods(s, resolved.model_copy(update={"models": (t5,)}))
    assert error.value.loc == ("edit", "editors", 2)


def test_a_method_of_texts_that_stay_the_same_is_refused_where_text_and_image_attend_to_each_other() -> None:
    s = spec(edit={"editors": ["uce", "speed"]})
    joint = TOY.model_copy(update={"id": "mine", "family": "sd3"})
    resolved = resolve(s)
    check_methods(s, resolved.model_copy(update={"models": (TOY, joint)}))
    message = r"speed: .* in mine \(sd3\) text and image attend to each other, so that it is another at every step"
    with pytest.raises(SpecError, match=message) as error:
        check_methods(s, resolved.model_copy(update={"models": (joint,)}))
    assert error.value.loc == ("edit", "editors", 1)
    assert [place.editor for place in method_places(s, resolved, "toy", "style/lumio")] == ["uce", "speed"]


def test_a_model_whose_sites_all_share_k_and_v_with_the_image_is_said_and_refused_where_it_is_alone() -> None:
    s = spec(edit={"editors": ["loco_edit"]})
    single = TOY.model_copy(update={"id": "mine", "family": "lumina2", "site_names": ("layers.0", "layers.1")})
    resolved = resolve(s)
    both, alone = (resolved.model_copy(update={"models": models}) for models in ((TOY, single), (single,)))
    check_methods(s, both)
    (reason,) = unedited_models(s, both)
    assert reason.startswith("mine: every site of mine (lumina2) has one K and V for text and image")
    assert unedited_models(tiny_sweep("toy"), both) == ()
    for refused in (lambda: check_methods(s, alone), lambda: check_editable(STYLE, 4, single, (1,))):
        with pytest.raises(SpecError, match=r"every site of mine \(lumina2\) has one K and V"):
            refused()


def test_attributes_that_no_edit_can_be_measured_on_are_said_and_refused_where_there_are_no_others() -> None:
    few = replace(STYLE, name="few", records=STYLE.records[:1])
    spec = tiny_sweep("toy", edit={})
    (reason,) = check_records(spec, (few, STYLE))
    assert "different content texts" in reason
    assert check_records(tiny_sweep("toy"), (few,)) == ()
    with pytest.raises(SpecError, match="different content texts"):
        check_records(spec, (few,))
