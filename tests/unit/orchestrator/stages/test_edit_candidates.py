from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from loco_core.errors import SpecError
from loco_core.types import Attribute
from orchestrator.resolve.resolved import ResolvedModel
from orchestrator.stages.edit.candidates import baselines, candidates, planned_edit, restored
from orchestrator.stages.edit.plan import (
    check_editable,
)
from tests.support.edit_specs import METHODS, STYLE, TOY, replaced, spec


def test_every_setting_is_a_candidate_once() -> None:
    edits = candidates(spec(), TOY, STYLE, (8, 9), "localized")
    # As published, paired of two token sets and four lambdas, three numbers of neurons.
    assert len({edit.edit_id for edit in edits}) == len(edits) == 1 + 2 * 4 + 3
    assert {edit.sites for edit in edits} == {(8, 9)}


def test_an_edit_keeps_its_name_unless_its_weights_change() -> None:
    def ids(model: ResolvedModel = TOY, sites: tuple[int, ...] = (8, 9), **changes: Any) -> set[str]:
        paired = spec(edit={"targets": "paired"}, **changes)
        return {edit.edit_id for edit in candidates(paired, model, STYLE, sites, "localized")}

    assert ids() == ids(seeds=7, generation={"steps": 9, "batch_size": 3})
    for other in (ids(sites=(8,)), ids(replaced(TOY)), ids(prompts=5)):
        assert not ids() & other


def test_baselines_are_all_sites_disjoint_windows_and_a_control_of_equal_size() -> None:
    first = candidates(spec(), TOY, STYLE, (8, 9), "localized")
    chosen = [first[1], first[-1]]
    found = baselines(spec(), TOY, STYLE, chosen)
    scopes = {
        scope: [edit for edit in found if edit.scope == scope] for scope in ("all_sites", "window", "placebo", "random")
    }
    assert len(scopes["all_sites"]) == 4 + 3
    assert {edit.settings.targets for edit in scopes["all_sites"]} == {"paired"}
    assert {edit.settings.tokens for edit in scopes["all_sites"][:4]} == {chosen[0].settings.tokens}
    starts = {edit.sites[0] for edit in scopes["window"]}
    assert starts == set(range(15)) - {7, 8, 9}
    assert [edit.settings.editor for edit in scopes["placebo"] + scopes["random"]] == ["loco_edit", "neurons"]
    assert scopes["placebo"][0].edit_id != chosen[0].edit_id
    assert not [e for e in baselines(spec(evaluate={"windows": False}), TOY, STYLE, chosen) if e.scope == "window"]


def test_targets_are_published_where_an_attribute_says_them_and_paired_beside() -> None:
    def found(item: Attribute = STYLE, **edit: Any) -> list[tuple[str, str, float, int]]:
        content = {"editors": ["loco_edit", "neurons"], "lambdas": [0.1], "tokens": ["all"], "neurons": [0.2], **edit}
        settings = [edit.settings for edit in candidates(spec(edit=content), TOY, item, (8, 9), "localized")]
        return [(one.editor, one.targets, one.strength, one.preserve) for one in settings if one.editor != "neurons"]

    ours, theirs = ("loco_edit", "paired", 0.1, 8), ("loco_edit", "published", 0.01, 0)
    assert found() == found(targets=["published", "paired"]) == [theirs, ours]
    assert found(targets="published") == [theirs]
    assert found(targets=["paired"]) == [ours]
    assert found(replace(STYLE, published=())) == [ours]
    weaker = ("loco_edit", "published", 0.5, 0)
    assert found(method_lambdas={"loco_edit": [0.01, 0.5]}) == [theirs, weaker, ours]


def test_a_published_edit_is_named_by_its_texts_and_not_by_prompts() -> None:
    def name(item: Attribute = STYLE, **changes: Any) -> str:
        (edit,) = candidates(spec(edit={"editors": ["loco_edit"], "targets": "published"}, **changes), TOY, item,
                             (8, 9), "localized")  # fmt: skip
        return edit.edit_id

    said = STYLE.published[0]
    other = replace(STYLE, published=(replace(said, pairs=((said.pairs[0][0], "a red shape"), *said.pairs[1:])),))
    assert name() == name(prompts=6)
    assert name() != name(other)


def test_neurons_are_ranked_at_the_positions_that_are_asked_for() -> None:
    wanted = {"editors": ["neurons"], "neurons": [0.5, 30], "neuron_tokens": ["last_subject", "last_position"],
              "guidance_half": "both"}  # fmt: skip
    edits = candidates(spec(edit=wanted), TOY, STYLE, (8, 9), "localized")
    assert [(edit.settings.tokens, edit.settings.neurons) for edit in edits] == [
        ("last_subject", 0.5), ("last_subject", 30), ("last_position", 0.5), ("last_position", 30),
    ]  # fmt: skip
    assert {(edit.settings.guidance_half, edit.settings.fill) for edit in edits} == {("both", "donor_mean")}
    default = candidates(spec(edit={"editors": ["neurons"]}), TOY, STYLE, (8, 9), "localized")
    assert {edit.settings.guidance_half for edit in default} == {"conditional"}


def test_methods_have_their_published_settings_and_a_place_of_their_own() -> None:
    s = spec(edit=METHODS)
    assert {edit.settings.editor for edit in candidates(s, TOY, STYLE, (8, 9), "localized")} == {"loco_edit"}
    uce = candidates(s, TOY, STYLE, TOY.method_sites("uce"), "method", "uce")
    (fix,) = candidates(s, TOY, STYLE, TOY.method_sites("diff_quick_fix"), "method", "diff_quick_fix")
    assert [(edit.settings.strength, edit.settings.tokens, edit.settings.preserve) for edit in uce] == [
        (0.1, "last_subject", 8), (1.0, "last_subject", 8),
    ]  # fmt: skip
    assert (fix.settings.strength, fix.settings.tokens, fix.settings.preserve) == (0.01, "tail", 0)
    assert (uce[0].sites, fix.sites) == (tuple(range(16)), ())
    others = baselines(s, TOY, STYLE, [uce[0], fix])
    assert [(edit.scope, edit.sites, edit.base) for edit in others] == [
        ("placebo", uce[0].sites, uce[0].edit_id), ("placebo", (), fix.edit_id),
    ]  # fmt: skip
    for edit in (*uce, fix, *others):
        row = {
            "edit_id": edit.edit_id, "scope": edit.scope, "site_indices": list(edit.sites), "base": edit.base or None,
            "settings": edit.settings.model_dump_json(),
        }  # fmt: skip
        assert restored(spec(), TOY, STYLE, row) == edit
    both = candidates(spec(edit={"editors": ["uce"], "preserve": 2}), TOY, STYLE, TOY.editable_sites, "method", "uce")
    assert [(edit.settings.targets, edit.settings.strength, edit.settings.preserve) for edit in both] == [
        ("published", 0.5, 2), ("paired", 0.5, 2),
    ]  # fmt: skip


def test_editors_say_what_they_preserve_and_a_sweep_may_say_otherwise() -> None:
    def found(**edit: Any) -> set[tuple[str, int, str]]:
        s = spec(edit={"editors": ["uce", "speed"], **edit})
        edits = [one for name in ("uce", "speed") for one in candidates(s, TOY, STYLE, (8, 9), "method", name)]
        return {(one.settings.editor, one.settings.preserve, one.settings.retain) for one in edits}

    assert found() == {("uce", 8, "affected"), ("speed", 16, "affected")}
    assert found(preserve=3, retain="all") == {("uce", 3, "affected"), ("speed", 3, "all")}


def test_only_an_editor_that_filters_what_it_retains_is_named_by_it() -> None:
    def names(editor: str, **edit: Any) -> list[str]:
        s = spec(edit={"editors": [editor], **edit})
        return [one.edit_id for one in candidates(s, TOY, STYLE, TOY.editable_sites, "method", editor)]

    (edit, *_) = candidates(spec(edit={"editors": ["uce"]}), TOY, STYLE, TOY.editable_sites, "method", "uce")
    other = edit.settings.model_copy(update={"retain": "all"})
    assert planned_edit(spec(), TOY, STYLE, other, "method", edit.sites).edit_id == edit.edit_id
    assert not set(names("speed")) & set(names("speed", retain="all"))


def test_an_edit_is_restored_from_its_row_or_not_at_all() -> None:
    s = spec()
    first = candidates(s, TOY, STYLE, (8, 9), "by_hand")
    for edit in (*first, *baselines(s, TOY, STYLE, [first[1], first[-1]])):
        listed = {
            "edit_id": edit.edit_id, "scope": edit.scope, "site_indices": list(edit.sites), "base": edit.base or None,
            "settings": edit.settings.model_dump_json(),
        }  # fmt: skip
        other = spec(edit={"lambdas": [7]}, evaluate={"prompts": 1})
        assert restored(other, TOY, STYLE, listed) == edit
        # A row of an older version: what the sweep still says, or nothing.
        assert restored(s, TOY, STYLE, {**listed, "settings": None}) == edit
        # As published it is fitted on no prompts.
        again = restored(spec(prompts=5), TOY, STYLE, listed)
        assert again == (edit if edit.settings.targets == "published" else None)
        assert restored(s, replaced(TOY), STYLE, listed) is None
    lost = {**listed, "settings": None}
    assert restored(spec(edit={"lambdas": [7], "neurons": [0.7]}), TOY, STYLE, lost) is None


def test_sites_that_the_image_shares_are_neither_edited_nor_baselines() -> None:
    names = tuple(f"transformer_blocks.{i}" for i in range(4)) + tuple(
        f"single_transformer_blocks.{i}" for i in range(6)
    )
    flux = TOY.model_copy(update={"family": "flux", "site_names": names})
    check_editable(STYLE, 4, flux, (2, 3))
    with pytest.raises(SpecError, match=r"site 4 of toy \(single_transformer_blocks.0\).*sites that admit one: 0 to 3"):
        check_editable(STYLE, 4, flux, (3, 4))
    s = spec(evaluate={"windows": True})
    others = baselines(s, flux, STYLE, candidates(s, flux, STYLE, (0, 1), "localized")[:1])
    assert {edit.sites for edit in others if edit.scope == "all_sites"} == {(0, 1, 2, 3)}
    assert {edit.sites for edit in others if edit.scope == "window"} == {(2, 3)}
