from __future__ import annotations

from dataclasses import asdict, replace
from typing import Any, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loco_core.attributes import attribute, bundled, of_other_kinds, siblings
from loco_core.errors import SpecError
from loco_core.types import Attribute, PromptRecord
from orchestrator.edit_candidates import baselines, candidates, restored
from orchestrator.edit_plan import (
    FIRST_SEED,
    check_editable,
    evaluate_units,
    pair,
    probes,
    watched,
)
from orchestrator.edit_summary import share, summarize
from orchestrator.editable import check_records
from orchestrator.resolve import ResolvedModel, check_methods, resolve, resolve_model
from orchestrator.spec import ModelSpec, SweepSpec
from orchestrator.splits import fit_templates, splits
from orchestrator.stages.edit import choose, method_places
from orchestrator.store import layout
from tests.sweeps import tiny_sweep

STYLE, VELOR = attribute("style/lumio"), attribute("style/velor")


def spec(**changes: Any) -> SweepSpec:
    content: dict[str, Any] = {
        "name": "s", "models": ["toy"], "attributes": ["style/lumio"], "scorer": "toy-clip", "prompts": 4,
        "generation": {"steps": 4, "batch_size": 16}, "edit": {}, "evaluate": {"prompts": 3, "seeds": 2},
    }  # fmt: skip
    return SweepSpec.model_validate({**content, **changes}, strict=False)


TOY = resolve_model(ModelSpec(id="toy"))


@pytest.fixture(scope="module")
def toy() -> ResolvedModel:
    return TOY


def contents(records: tuple[PromptRecord, ...]) -> set[str]:
    return {record.content_text for record in records}


@given(st.sampled_from(sorted(bundled())), st.integers(1, 24))
def test_no_content_is_used_in_two_splits(key: str, localized_on: int) -> None:
    item = bundled()[key]
    found = splits(item, min(localized_on, len(item.records)))
    parts = [contents(found[name]) for name in ("fit", "select", "report")]  # type: ignore[index]
    assert all(parts)
    assert not parts[0] & parts[1]
    assert not (parts[0] | parts[1]) & parts[2]
    assert {record.template_id for record in (*found["fit"], *found["select"])} <= fit_templates(item)


def test_contents_that_the_sweep_has_not_seen_are_kept_for_measuring() -> None:
    found = splits(STYLE, 4)
    assert contents(found["fit"]) == contents(found["localize"])
    assert not contents(found["localize"]) & (contents(found["select"]) | contents(found["report"]))


def test_too_few_contents_are_refused() -> None:
    few = Attribute("style", "x", "remove", tuple(r for r in STYLE.records if r.content_text == "a red circle"))
    with pytest.raises(SpecError, match=r"style/x: .* need 3 different content texts or more; it has 1"):
        splits(few, 1)


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
    own = {"kind": "animal", "name": "dog", "mode": "replace", "records": [asdict(record) for record in records]}
    for others, expected in (
        ([], set()),
        (["style/lumio"], {"style"}),
        (["style/lumio", "fact/zandia"], {"style", "flag"}),
    ):
        s = spec(attributes=[own, *others], prompts=1, evaluate={"prompts": 4, "seeds": 1})
        item = s.attributes[0].attribute  # type: ignore[union-attr]
        texts = [probe.record.prompt for probe in probes(s, item, [], "report") if probe.role == "unrelated"]
        assert {word for word in ("style", "flag") if any(word in text for text in texts)} == expected


def test_the_ceiling_is_of_donors_whatever_they_are_called() -> None:
    def seen(role: str, prompt: str, before: str, kind: str = "fact") -> dict[str, Any]:
        return {
            "prompt_role": role, "prompt": prompt, "clip_text": "", "seed": 1, "judge": "j", "judge_kind": kind,
            "judge_said": "morova" if kind == "fact" else "lumio", "judge_before": before, "judge_after": before,
            "flipped": None, "split": "report", "edit_id": "e", "scope": "localized",
        }  # fmt: skip

    edit = {
        "edit_id": "e", "scope": "localized", "attribute_kind": "fact", "model": "m", "attribute": "fact/zandia",
        "editor": "uce", "targets": None, "chosen": True, "site_indices": [1], "localization": "",
    }  # fmt: skip
    old = [seen("unrelated", "flag", "morova"), seen("unrelated", "flag", "lumio", "style")]
    new = [seen("donor", "flag", "none"), seen("unrelated", "circle", "velor", "style")]
    (before,), (both,) = (summarize([edit], rows) for rows in (old, old + new))
    assert (before.ceiling.hits, before.ceiling.of, before.unrelated_kept.of) == (1, 1, 1)
    # Of a folder that an earlier version began: its donors are not unrelated any more.
    assert (both.ceiling.hits, both.ceiling.of, both.unrelated_kept.of) == (0, 1, 0)


def test_every_setting_is_a_candidate_once(toy: ResolvedModel) -> None:
    edits = candidates(spec(), toy, STYLE, (8, 9), "localized")
    # As published, paired of two token sets and four lambdas, three numbers of neurons.
    assert len({edit.edit_id for edit in edits}) == len(edits) == 1 + 2 * 4 + 3
    assert {edit.sites for edit in edits} == {(8, 9)}


def test_an_edit_keeps_its_name_unless_its_weights_change(toy: ResolvedModel) -> None:
    def ids(model: ResolvedModel = toy, sites: tuple[int, ...] = (8, 9), **changes: Any) -> set[str]:
        paired = spec(edit={"targets": "paired"}, **changes)
        return {edit.edit_id for edit in candidates(paired, model, STYLE, sites, "localized")}

    assert ids() == ids(seeds=7, generation={"steps": 9, "batch_size": 3})
    for other in (ids(sites=(8,)), ids(replaced(toy)), ids(prompts=5)):
        assert not ids() & other


def replaced(model: ResolvedModel) -> ResolvedModel:
    return model.model_copy(update={"weights": "0" * 64})


def test_baselines_are_all_sites_disjoint_windows_and_a_control_of_equal_size(toy: ResolvedModel) -> None:
    first = candidates(spec(), toy, STYLE, (8, 9), "localized")
    chosen = [first[1], first[-1]]
    found = baselines(spec(), toy, STYLE, chosen)
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
    assert not [e for e in baselines(spec(evaluate={"windows": False}), toy, STYLE, chosen) if e.scope == "window"]


def test_targets_are_published_where_an_attribute_says_them_and_paired_beside(toy: ResolvedModel) -> None:
    def found(item: Attribute = STYLE, **edit: Any) -> list[tuple[str, str, float, int]]:
        content = {"editors": ["loco_edit", "neurons"], "lambdas": [0.1], "tokens": ["all"], "neurons": [0.2], **edit}
        settings = [edit.settings for edit in candidates(spec(edit=content), toy, item, (8, 9), "localized")]
        return [(one.editor, one.targets, one.strength, one.preserve) for one in settings if one.editor != "neurons"]

    ours, theirs = ("loco_edit", "paired", 0.1, 8), ("loco_edit", "published", 0.01, 0)
    assert found() == found(targets=["published", "paired"]) == [theirs, ours]
    assert found(targets="published") == [theirs]
    assert found(targets=["paired"]) == [ours]
    assert found(replace(STYLE, published=())) == [ours]
    weaker = ("loco_edit", "published", 0.5, 0)
    assert found(method_lambdas={"loco_edit": [0.01, 0.5]}) == [theirs, weaker, ours]


def test_a_published_edit_is_named_by_its_texts_and_not_by_prompts(toy: ResolvedModel) -> None:
    def name(item: Attribute = STYLE, **changes: Any) -> str:
        (edit,) = candidates(spec(edit={"editors": ["loco_edit"], "targets": "published"}, **changes), toy, item,
                             (8, 9), "localized")  # fmt: skip
        return edit.edit_id

    said = STYLE.published[0]
    other = replace(STYLE, published=(replace(said, pairs=((said.pairs[0][0], "a red shape"), *said.pairs[1:])),))
    assert name() == name(prompts=6)
    assert name() != name(other)


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


def test_an_attribute_written_out_brings_its_published_texts(toy: ResolvedModel) -> None:
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


def test_neurons_are_ranked_at_the_positions_that_are_asked_for(toy: ResolvedModel) -> None:
    wanted = {"editors": ["neurons"], "neurons": [0.5, 30], "neuron_tokens": ["last_subject", "last_position"],
              "guidance_half": "both"}  # fmt: skip
    edits = candidates(spec(edit=wanted), toy, STYLE, (8, 9), "localized")
    assert [(edit.settings.tokens, edit.settings.neurons) for edit in edits] == [
        ("last_subject", 0.5), ("last_subject", 30), ("last_position", 0.5), ("last_position", 30),
    ]  # fmt: skip
    assert {(edit.settings.guidance_half, edit.settings.fill) for edit in edits} == {("both", "donor_mean")}
    default = candidates(spec(edit={"editors": ["neurons"]}), toy, STYLE, (8, 9), "localized")
    assert {edit.settings.guidance_half for edit in default} == {"conditional"}


METHODS = {"editors": ["loco_edit", "uce", "diff_quick_fix"], "method_lambdas": {"uce": [0.1, 1.0]},
           "targets": ["paired"]}  # fmt: skip


def test_methods_have_their_published_settings_and_a_place_of_their_own(toy: ResolvedModel) -> None:
    s = spec(edit=METHODS)
    assert {edit.settings.editor for edit in candidates(s, toy, STYLE, (8, 9), "localized")} == {"loco_edit"}
    uce = candidates(s, toy, STYLE, toy.method_sites("uce"), "method", "uce")
    (fix,) = candidates(s, toy, STYLE, toy.method_sites("diff_quick_fix"), "method", "diff_quick_fix")
    assert [(edit.settings.strength, edit.settings.tokens, edit.settings.preserve) for edit in uce] == [
        (0.1, "last_subject", 8), (1.0, "last_subject", 8),
    ]  # fmt: skip
    assert (fix.settings.strength, fix.settings.tokens, fix.settings.preserve) == (0.01, "tail", 0)
    assert (uce[0].sites, fix.sites) == (tuple(range(16)), ())
    others = baselines(s, toy, STYLE, [uce[0], fix])
    assert [(edit.scope, edit.sites, edit.base) for edit in others] == [
        ("placebo", uce[0].sites, uce[0].edit_id), ("placebo", (), fix.edit_id),
    ]  # fmt: skip
    for edit in (*uce, fix, *others):
        row = {
            "edit_id": edit.edit_id, "scope": edit.scope, "site_indices": list(edit.sites), "base": edit.base or None,
            "settings": edit.settings.model_dump_json(),
        }  # fmt: skip
        assert restored(spec(), toy, STYLE, row) == edit
    both = candidates(spec(edit={"editors": ["uce"], "preserve": 2}), toy, STYLE, toy.editable_sites, "method", "uce")
    assert [(edit.settings.targets, edit.settings.strength, edit.settings.preserve) for edit in both] == [
        ("published", 0.5, 2), ("paired", 0.5, 2),
    ]  # fmt: skip


def test_a_method_that_no_model_admits_is_refused_and_others_are_passed_over(toy: ResolvedModel) -> None:
    s = spec(edit=METHODS)
    t5 = toy.model_copy(update={"id": "mine", "family": "pixart"})
    resolved = resolve(s)
    assert [place.editor for place in method_places(s, resolved, "toy", "style/lumio")] == ["uce", "diff_quick_fix"]
    both = resolved.model_copy(update={"models": (toy, t5)})
    check_methods(s, both)
    assert [place.editor for place in method_places(s, both, "mine", "style/lumio")] == ["uce"]
    message = r"diff_quick_fix edits the CLIP text encoder .*; mine \(pixart\) reads T5-XXL"
    with pytest.raises(SpecError, match=message) as error:
        check_methods(s, resolved.model_copy(update={"models": (t5,)}))
    assert error.value.loc == ("edit", "editors", 2)


def test_units_cover_every_edit_on_every_probe_once(toy: ResolvedModel) -> None:
    s = spec()
    edits, drawn = candidates(s, toy, STYLE, (8, 9), "localized"), probes(s, STYLE, [VELOR], "report")
    slow = replaced(toy).model_copy(update={"seconds_per_image": 20.0})
    units = evaluate_units(s, slow, STYLE, edits, "", drawn, "report", 5)
    assert len(units) > 2
    pairs = [(edit.edit_id, probe) for unit in units for edit in unit.edits for probe in unit.probes]
    assert len(pairs) == len(set(pairs)) == len(edits) * len(drawn)
    assert len({unit.unit_id for unit in units}) == len(units)
    assert [unit.order for unit in units] == list(range(5, 5 + len(units)))
    assert all(len(unit.probes) <= unit.batch_size <= 16 for unit in units)


@settings(deadline=None, max_examples=30)
@given(st.data())
def test_what_is_measured_is_left_out_and_the_rest_is_cut_as_it_was(data: st.DataObject) -> None:
    s = spec(generation={"steps": 4, "batch_size": data.draw(st.integers(1, 30))})
    slow = TOY.model_copy(update={"seconds_per_image": data.draw(st.sampled_from([0.1, 5.0, 50.0]))})
    edits = candidates(s, slow, STYLE, (8, 9), "localized")
    drawn = probes(s, STYLE, [VELOR], "report")[: data.draw(st.integers(1, 24))]
    units = evaluate_units(s, slow, STYLE, edits, "", drawn, "report", 0)
    done = data.draw(st.sets(st.sampled_from(units)))
    measured = {pair(edit, probe) for unit in done for edit in unit.edits for probe in unit.probes}
    rest = evaluate_units(s, slow, STYLE, edits, "", drawn, "report", 0, measured)
    assert {unit.unit_id for unit in rest} == {unit.unit_id for unit in units} - {unit.unit_id for unit in done}
    assert {unit.batch_size for unit in rest} <= {unit.batch_size for unit in units}


def test_more_probes_are_measured_without_those_that_were(toy: ResolvedModel) -> None:
    few, many = spec(), spec(evaluate={"prompts": 4, "seeds": 3})
    edits = candidates(few, toy, STYLE, (8, 9), "localized")
    before, wanted = probes(few, STYLE, [VELOR], "report"), probes(many, STYLE, [VELOR], "report")
    measured = {pair(edit, probe) for edit in edits for probe in before}
    units = evaluate_units(many, toy, STYLE, edits, "", wanted, "report", 0, measured)
    pairs = [pair(edit, probe) for unit in units for edit in unit.edits for probe in unit.probes]
    assert len(pairs) == len(set(pairs))
    assert set(pairs) == {pair(edit, probe) for edit in edits for probe in wanted} - measured
    assert not evaluate_units(many, toy, STYLE, edits, "", wanted, "report", 0, {*measured, *pairs})


def test_an_edit_by_hand_has_the_same_weights_and_units_of_its_own(toy: ResolvedModel) -> None:
    s = spec()
    found, named = (candidates(s, toy, STYLE, (8, 9), scope) for scope in ("localized", "by_hand"))  # type: ignore[arg-type]
    assert [edit.edit_id for edit in found] == [edit.edit_id for edit in named]
    drawn = probes(s, STYLE, [VELOR], "select")
    units = [
        {unit.unit_id for unit in evaluate_units(s, toy, STYLE, edits, "", drawn, "select", 0)}
        for edits in (found, named)
    ]
    assert not units[0] & units[1]
    assert layout.delta("a", "by_hand") != layout.delta("a", "localized") == layout.delta("a")


def test_an_edit_is_restored_from_its_row_or_not_at_all(toy: ResolvedModel) -> None:
    s = spec()
    first = candidates(s, toy, STYLE, (8, 9), "by_hand")
    for edit in (*first, *baselines(s, toy, STYLE, [first[1], first[-1]])):
        listed = {
            "edit_id": edit.edit_id, "scope": edit.scope, "site_indices": list(edit.sites), "base": edit.base or None,
            "settings": edit.settings.model_dump_json(),
        }  # fmt: skip
        other = spec(edit={"lambdas": [7]}, evaluate={"prompts": 1})
        assert restored(other, toy, STYLE, listed) == edit
        # A row of an older version: what the sweep still says, or nothing.
        assert restored(s, toy, STYLE, {**listed, "settings": None}) == edit
        # As published it is fitted on no prompts.
        again = restored(spec(prompts=5), toy, STYLE, listed)
        assert again == (edit if edit.settings.targets == "published" else None)
        assert restored(s, replaced(toy), STYLE, listed) is None
    lost = {**listed, "settings": None}
    assert restored(spec(edit={"lambdas": [7], "neurons": [0.7]}), toy, STYLE, lost) is None


def test_a_prompt_that_equals_its_donor_is_refused_when_it_is_planned(toy: ResolvedModel) -> None:
    check_editable(STYLE, 4, toy)
    last = STYLE.records[-1]
    same = replace(STYLE, records=(*STYLE.records[:-1], replace(last, donor=f" {last.prompt}")))
    with pytest.raises(SpecError, match=f'style/lumio: the prompt "{last.prompt}" equals its donor; nothing to edit'):
        check_editable(same, 4, toy)


def test_sites_that_the_image_shares_are_neither_edited_nor_baselines(toy: ResolvedModel) -> None:
    names = tuple(f"transformer_blocks.{i}" for i in range(4)) + tuple(
        f"single_transformer_blocks.{i}" for i in range(6)
    )
    flux = toy.model_copy(update={"family": "flux", "site_names": names})
    check_editable(STYLE, 4, flux, (2, 3))
    with pytest.raises(SpecError, match=r"site 4 of toy \(single_transformer_blocks.0\).*sites that admit one: 0 to 3"):
        check_editable(STYLE, 4, flux, (3, 4))
    s = spec(evaluate={"windows": True})
    others = baselines(s, flux, STYLE, candidates(s, flux, STYLE, (0, 1), "localized")[:1])
    assert {edit.sites for edit in others if edit.scope == "all_sites"} == {(0, 1, 2, 3)}
    assert {edit.sites for edit in others if edit.scope == "window"} == {(2, 3)}


def test_neighbours_without_prompts_enough_are_passed_over() -> None:
    few = replace(VELOR, name="few", records=VELOR.records[:1])
    known = {item.key: item for item in (few, VELOR, STYLE)}
    assert watched(spec(), known, ["style/few", "style/gone", "style/velor", "style/lumio"]) == [VELOR, STYLE]
    assert watched(spec(evaluate={"neighbours": 1}), known, ["style/few", "style/velor", "style/lumio"]) == [VELOR]


def row(
    edit_id: str,
    role: str,
    flipped: bool | None,
    *,
    after: str = "plain",
    seed: int = 0,
    judge: str | None = "toy-judge",
) -> dict[str, Any]:
    said = "lumio" if role == "target" else "velor"
    return {
        "edit_id": edit_id, "scope": "localized", "split": "select", "status": "ok", "prompt_role": role,
        "prompt": said, "clip_text": said, "seed": seed, "judge": judge,
        "flipped": flipped, "judge_kind": "style", "judge_said": said, "judge_before": said, "judge_after": after,
    }  # fmt: skip


def test_the_most_effective_edit_that_spares_the_neighbours_is_chosen(toy: ResolvedModel) -> None:
    wanted = spec(edit={"editors": ["loco_edit"], "targets": "paired", "tokens": ["all"], "lambdas": [1, 2, 3]})
    edits = candidates(wanted, toy, STYLE, (8,), "localized")
    weak, right, strong = (edit.edit_id for edit in edits)
    rows = [row(weak, "target", False, after="lumio"), row(weak, "neighbour", False, after="velor")]
    rows += [row(right, "target", True), row(right, "neighbour", False, after="velor")]
    rows += [row(strong, "target", True), row(strong, "neighbour", True)]
    # Pictures that never had their attribute say nothing.
    rows += [
        {**row(right, role, None, after="other", seed=1), "judge_before": "other"} for role in ("target", "neighbour")
    ]
    listed = [
        {"edit_id": e.edit_id, "scope": "localized", "attribute_kind": "style", "model": "toy", "chosen": None,
         "attribute": "style/lumio", "editor": "loco_edit", "targets": "paired", "site_indices": list(e.sites),
         "localization": "window: sites 8-8"} for e in edits
    ]  # fmt: skip
    measured = summarize(listed, rows, "select")
    assert [(m.flipped.value, m.neighbours_kept.value) for m in measured] == [(0, 1), (1, 1), (1, 0)]
    assert choose(edits, measured, 0.1) == {right}
    assert choose(edits, measured[::2], 0.1) == {weak}
    # Where none spares them enough, the most sparing one.
    assert choose(edits, measured[2:], 0.1) == {strong}


def listed(edit_id: str) -> dict[str, Any]:
    return {
        "edit_id": edit_id, "scope": "localized", "attribute_kind": "style", "model": "toy", "chosen": None,
        "attribute": "style/lumio", "editor": "loco_edit", "targets": "paired", "site_indices": [8],
        "localization": "window: sites 8-8",
    }  # fmt: skip


def test_one_edit_of_each_editor_and_targets_is_chosen(toy: ResolvedModel) -> None:
    wanted = spec(edit={"editors": ["loco_edit"], "tokens": ["all"], "lambdas": [1, 2]})
    published, weak, strong = candidates(wanted, toy, STYLE, (8,), "localized")
    rows = [row(e.edit_id, "target", flipped, after="plain") for e, flipped in
            ((published, False), (weak, False), (strong, True))]  # fmt: skip
    measured = summarize([listed(edit.edit_id) for edit in (published, weak, strong)], rows, "select")
    assert choose([published, weak, strong], measured, 0.1) == {published.edit_id, strong.edit_id}


def test_a_picture_that_the_edit_destroyed_is_neither_flipped_nor_kept() -> None:
    rows = [
        row("a", "neighbour", None, after=after, seed=seed) for seed, after in enumerate(["velor", *["invalid"] * 3])
    ]
    rows += [
        row("a", "target", False, after="invalid"),
        {**row("a", "target", None, seed=1), "judge_before": "invalid"},
    ]
    (found,) = summarize([listed("a")], rows, "select")
    assert (found.neighbours_kept.hits, found.neighbours_kept.of) == (1, 4)
    assert (found.flipped.hits, found.flipped.of) == (0, 1)


def test_what_a_judge_saw_is_not_pooled_with_the_sign_of_a_margin() -> None:
    rows = [row("a", "target", True, seed=seed, judge=None) for seed in range(3)]
    rows += [row("a", "target", False, seed=seed) for seed in range(2)]
    (found,) = summarize([listed("a")], rows, "select")
    assert (found.flipped.hits, found.flipped.of) == (0, 2)


def test_content_is_kept_by_pictures_that_keep_all_of_it() -> None:
    kinds = {"object": "circle", "colour": "red"}
    rows = [
        {**row("a", "target", True, seed=seed), "judge_kind": kind, "judge_said": name, "judge_before": name,
         "judge_after": name if (kind, seed) != ("colour", 1) else "blue"}
        for seed in range(4) for kind, name in kinds.items()
    ]  # fmt: skip
    (found,) = summarize([listed("a")], rows, "select")
    assert (found.content_kept.hits, found.content_kept.of) == (3, 4)


def test_the_donor_prompt_itself_is_the_ceiling() -> None:
    drawn = ["plain", "lumio", "unsure", "plain"]
    rows = [{**row("a", "unrelated", None, seed=n), "judge_said": None, "judge_before": d} for n, d in enumerate(drawn)]
    (found,) = summarize([listed("a")], [*rows, row("a", "target", True)], "select")
    assert (found.ceiling.hits, found.ceiling.of) == (2, 4)
    named = [{**r, "judge_said": "velor", "judge_before": b} for r, b in zip(rows, ["velor", *drawn[1:]], strict=True)]
    (found,) = summarize([listed("a")], [*named, row("a", "target", True)], "select")
    assert (found.ceiling.hits, found.ceiling.of) == (1, 4)


def test_pictures_of_one_prompt_are_worth_less_than_independent_ones() -> None:
    alike = share({(f"p{prompt}", seed): prompt < 4 for prompt in range(8) for seed in range(13)})
    mixed = share({(f"p{prompt}", seed): (prompt + seed) % 2 == 0 for prompt in range(8) for seed in range(13)})
    assert alike.value == mixed.value == 0.5
    assert alike.high - alike.low > 2 * (mixed.high - mixed.low)
    # Eight prompts: nearly the interval of 4 of 8.
    assert alike.high - alike.low > 0.45


def test_another_judge_measures_anew(toy: ResolvedModel) -> None:
    names = []
    for judge in ("toy-judge", None):
        wanted = spec(evaluate={"judge": judge})
        edits = candidates(wanted, toy, STYLE, (8,), "localized")
        drawn = probes(wanted, STYLE, [VELOR], "report")
        names.append({unit.unit_id for unit in evaluate_units(wanted, toy, STYLE, edits, "", drawn, "report", 0)})
    assert not names[0] & names[1]


def test_attributes_that_no_edit_can_be_measured_on_are_said_and_refused_where_there_are_no_others() -> None:
    few = replace(STYLE, name="few", records=STYLE.records[:1])
    spec = tiny_sweep("toy", edit={})
    (reason,) = check_records(spec, (few, STYLE))
    assert "different content texts" in reason
    assert check_records(tiny_sweep("toy"), (few,)) == ()
    with pytest.raises(SpecError, match="different content texts"):
        check_records(spec, (few,))
