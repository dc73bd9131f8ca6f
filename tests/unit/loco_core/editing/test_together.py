from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from loco_core.attributes import attribute
from loco_core.diffusion.model import LoadedModel
from loco_core.editing.base import Concept, EditSettings, Target, fit_edit
from loco_core.editing.deltas import Change, WeightDelta, from_bytes, module_paths, to_bytes
from loco_core.editing.ridge import stacked
from loco_core.editing.together import Member, fit_together, meetings
from loco_core.editing.token_pairs import TokenPairs
from loco_core.errors import EditError

WEIGHTS = "w" * 64
STYLE = Concept("style/velor", attribute("style/velor").records[:3])
FACT = Concept("fact/zandia", attribute("fact/zandia").records[:3])
KEPT = Concept("style/lumio", attribute("style/lumio").records[:2])
SETTINGS = EditSettings(strength=0.01, tokens="subject")


def alone(
    model: LoadedModel, concepts: tuple[Concept, ...], sites: tuple[int, ...], preserve: Sequence[Concept] = ()
) -> WeightDelta:
    records = tuple(record for concept in preserve for record in concept.records)
    return fit_edit(model, Target("tiny", WEIGHTS, sites, concepts, records), SETTINGS)


def together(model: LoadedModel, *members: Member, wanted: EditSettings = SETTINGS) -> WeightDelta:
    return fit_together(model, members, wanted, "tiny", WEIGHTS)


def weights(delta: WeightDelta) -> dict[str, Change]:
    found = {change.module: change for change in delta.changes}
    assert len(found) == len(delta.changes)
    return found


def same(a: WeightDelta, b: WeightDelta) -> bool:
    """Tells whether two edits change the same to the last bit."""
    one, other = weights(a), weights(b)
    return one.keys() == other.keys() and all(
        torch.equal(one[name].weight, other[name].weight)
        for name in one  # type: ignore[arg-type]
    )


def joined(*deltas: WeightDelta) -> WeightDelta:
    return WeightDelta(deltas[0].provenance, tuple(change for delta in deltas for change in delta.changes))


SITES = st.sets(st.integers(5, 9), min_size=1, max_size=3).map(lambda sites: tuple(sorted(sites)))


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(style=SITES, fact=SITES)
def test_each_attribute_is_edited_at_its_own_sites_and_where_they_meet_at_once(
    tiny_model: LoadedModel, style: tuple[int, ...], fact: tuple[int, ...]
) -> None:
    """So that disjoint edits are those of each alone, and the order of attributes never matters."""
    members = Member(STYLE, style), Member(FACT, fact)
    delta = together(tiny_model, *members)
    shared = tuple(sorted(set(style) & set(fact)))
    parts = [
        alone(tiny_model, concepts, sites)
        for concepts, sites in (
            ((STYLE,), tuple(site for site in style if site not in shared)),
            ((FACT,), tuple(site for site in fact if site not in shared)),
            ((FACT, STYLE), shared),
        )
        if sites
    ]
    assert same(delta, joined(*parts))
    assert same(delta, together(tiny_model, *reversed(members)))
    assert delta.provenance.sites == tuple(sorted({*style, *fact}))
    assert delta.provenance.attributes == ("fact/zandia", "style/velor")


@settings(max_examples=4, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(copies=st.integers(2, 5), editor=st.sampled_from(["loco_edit", "speed"]), kept=st.booleans())
def test_an_attribute_with_more_prompts_counts_no_more(
    tiny_model: LoadedModel, copies: int, editor: str, kept: bool
) -> None:
    """Prompts that stand there several times change nothing but how many prompts there are in all."""
    several = Concept(FACT.attribute, FACT.records * copies)
    more = (copies + 1) / 2
    absolute = editor != "loco_edit"
    wanted = EditSettings(editor=editor, strength=0.1, tokens="last_subject")
    # The keys of all weigh so many times more, and what is preserved must keep up; the lambda of SPEED is of a mean.
    again = wanted if absolute else wanted.model_copy(update={"strength": 0.1 * more})
    beside = (KEPT,) if kept and absolute else ()
    one = weights(together(tiny_model, Member(STYLE, (8,), beside), Member(FACT, (8,)), wanted=wanted))
    other = weights(together(tiny_model, Member(STYLE, (8,), beside), Member(several, (8,)), wanted=again))
    for name, change in one.items():
        torch.testing.assert_close(change.weight, other[name].weight, rtol=1e-4, atol=1e-6)


def test_keys_of_published_texts_count_once_each() -> None:
    few, many = (TokenPairs(torch.ones(n, 2), torch.zeros(n, 2)) for n in (1, 3))
    assert torch.equal(stacked([few, many], published=True)[0], torch.ones(4, 2))
    keys, _ = stacked([few, many], published=False)
    assert keys.square().sum(1).tolist() == pytest.approx([4, 4 / 3, 4 / 3, 4 / 3])
    assert torch.equal(stacked([many, many], published=False)[0], torch.ones(6, 2))


def test_where_attributes_meet_the_edit_is_not_that_of_one_over_the_other(tiny_model: LoadedModel) -> None:
    delta = together(tiny_model, Member(STYLE, (8,)), Member(FACT, (8,)))
    for concept in (STYLE, FACT):
        assert not same(delta, alone(tiny_model, (concept,), (8,)))


def test_neurons_of_all_attributes_are_held_whatever_their_order(tiny_model: LoadedModel) -> None:
    wanted = EditSettings(editor="neurons", neurons=3, tokens="last_subject")
    members = Member(STYLE, (8, 9)), Member(FACT, (9,))
    delta, again = (
        together(tiny_model, *members, wanted=wanted),
        together(tiny_model, *reversed(members), wanted=wanted),
    )
    held = weights(delta)
    assert {len(held[path].rows) for path in module_paths(tiny_model, (8,))} == {3}
    assert all(3 <= len(held[path].rows) <= 6 for path in module_paths(tiny_model, (9,)))
    assert all(torch.equal(held[name].conditional, change.conditional) for name, change in weights(again).items())  # type: ignore[arg-type]


def test_what_is_edited_at_a_site_is_not_preserved_there(tiny_model: LoadedModel) -> None:
    members = Member(STYLE, (8, 9), (KEPT, FACT)), Member(FACT, (9,))
    delta = together(tiny_model, *members)
    expected = joined(alone(tiny_model, (STYLE,), (8,), (KEPT, FACT)), alone(tiny_model, (FACT, STYLE), (9,), (KEPT,)))
    assert same(delta, expected)


def test_it_is_kept_as_a_file(tiny_model: LoadedModel) -> None:
    delta = together(tiny_model, Member(STYLE, (8,)), Member(FACT, (9,)))
    read = from_bytes(to_bytes(delta), "memory")
    assert same(delta, read)
    assert read.provenance == delta.provenance


def test_attributes_are_given_once_and_with_sites_of_each(tiny_model: LoadedModel) -> None:
    for members, message in (
        ((Member(STYLE, (8,)), Member(STYLE, (9,))), "takes each once; got style/velor, style/velor"),
        ((Member(STYLE, (8,)), Member(FACT, ())), "sites of each, or of none"),
        ((), "got none"),
    ):
        with pytest.raises(EditError, match=message):
            together(tiny_model, *members)


def test_an_editor_of_one_attribute_at_a_time_is_not_given_several(tiny_model: LoadedModel, tmp_path: Path) -> None:
    file = tmp_path / "single.py"
    file.write_text(
        "from loco_core.editing.base import EditorInfo\n"
        "from loco_core.editing.editors.loco_edit import edit\n"
        "INFO = EditorInfo(together=False)\n"
    )
    wanted = SETTINGS.model_copy(update={"editor": str(file)})
    with pytest.raises(EditError, match="edits one attribute at a time"):
        together(tiny_model, Member(STYLE, (8,)), Member(FACT, (8,)), wanted=wanted)
    # Where they do not meet, it is given one at a time.
    assert len(together(tiny_model, Member(STYLE, (8,)), Member(FACT, (9,)), wanted=wanted).changes) == 4


@given(st.lists(st.sets(st.integers(0, 6)), min_size=1, max_size=4))
def test_every_site_of_every_attribute_is_in_one_meeting(sites: list[set[int]]) -> None:
    found = meetings([tuple(each) for each in sites])
    listed = [site for _, each in found for site in each]
    assert sorted(listed) == sorted(set().union(*sites))
    for meeting, each in found:
        for site in each:
            assert meeting == tuple(number for number, mine in enumerate(sites) if site in mine)
