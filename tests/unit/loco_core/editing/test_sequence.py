from __future__ import annotations

import json

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from loco_core.attributes import attribute
from loco_core.diffusion.model import LoadedModel
from loco_core.editing.base import Concept, EditSettings, Target, fit_edit
from loco_core.editing.deltas import Change, WeightDelta, applied, changed_projection, from_bytes, to_bytes
from loco_core.editing.sequence import fit_after, one_after_the_other
from loco_core.errors import EditError

WEIGHTS = "w" * 64
STYLE = Concept("style/velor", attribute("style/velor").records[:3])
FACT = Concept("fact/zandia", attribute("fact/zandia").records[:3])
OTHER = Concept("style/lumio", attribute("style/lumio").records[:3])
CLOSED = EditSettings(strength=0.01, tokens="subject")
NEURONS = EditSettings(editor="neurons", neurons=3, tokens="last_subject")
ZERO = NEURONS.model_copy(update={"guidance_half": "both", "fill": "zero"})
Steps = tuple[tuple[Concept, tuple[int, ...]], ...]


def alone(model: LoadedModel, concept: Concept, sites: tuple[int, ...], wanted: EditSettings = CLOSED) -> WeightDelta:
    return fit_edit(model, Target("tiny", WEIGHTS, sites, (concept,)), wanted)


def in_turn(model: LoadedModel, steps: Steps, wanted: EditSettings = CLOSED) -> WeightDelta:
    delta: WeightDelta | None = None
    for concept, sites in steps:
        delta = fit_after(model, delta, lambda concept=concept, sites=sites: alone(model, concept, sites, wanted))  # type: ignore[misc]
    assert delta is not None
    return delta


def state(model: LoadedModel, delta: WeightDelta | None = None) -> dict[str, torch.Tensor]:
    denoiser = model.family.denoiser(model.pipeline)
    if delta is None:
        return {name: value.clone() for name, value in denoiser.state_dict().items()}
    with applied(model, delta, WEIGHTS):
        return state(model)


def equal(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("wanted", [CLOSED, ZERO], ids=["loco_edit", "neurons at zero"])
def test_it_is_each_edit_fitted_by_hand_on_the_weights_that_the_ones_before_left(
    tiny_model: LoadedModel, wanted: EditSettings
) -> None:
    steps: Steps = ((STYLE, (8, 9)), (FACT, (9, 10)), (OTHER, (8,)))
    before, delta = state(tiny_model), in_turn(tiny_model, steps, wanted)
    assert equal(state(tiny_model), before), "the model is not as it was"
    one = alone(tiny_model, *steps[0], wanted)
    with applied(tiny_model, one, WEIGHTS):
        two = alone(tiny_model, *steps[1], wanted)
        with applied(tiny_model, two, WEIGHTS):
            three = alone(tiny_model, *steps[2], wanted)
            expected = state(tiny_model, three)
    assert equal(state(tiny_model, delta), expected)
    assert equal(state(tiny_model), before)


def test_the_first_step_is_the_edit_alone(tiny_model: LoadedModel) -> None:
    assert equal(
        state(tiny_model, in_turn(tiny_model, ((STYLE, (8, 9)),))), state(tiny_model, alone(tiny_model, STYLE, (8, 9)))
    )


SITES = st.sets(st.integers(6, 9), min_size=1, max_size=2).map(lambda sites: tuple(sorted(sites)))


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(style=SITES, fact=SITES)
def test_the_order_matters_where_edits_meet_and_nowhere_else(
    tiny_model: LoadedModel, style: tuple[int, ...], fact: tuple[int, ...]
) -> None:
    one = state(tiny_model, in_turn(tiny_model, ((STYLE, style), (FACT, fact))))
    other = state(tiny_model, in_turn(tiny_model, ((FACT, fact), (STYLE, style))))
    shared = [tiny_model.sites[site] for site in set(style) & set(fact)]
    paths = {f"{path}.weight" for site in shared for path in (site.key_path, site.value_path)}
    assert {name for name in one if not torch.equal(one[name], other[name])} == paths


def test_neurons_of_all_steps_are_held_the_later_ones_over_the_earlier(tiny_model: LoadedModel) -> None:
    delta = in_turn(tiny_model, ((STYLE, (8,)), (FACT, (8,))), NEURONS)
    first, then = (alone(tiny_model, concept, (8,), NEURONS) for concept in (STYLE, FACT))
    for whole, old, new in zip(delta.changes, first.changes, then.changes, strict=True):
        held = dict(zip(whole.rows.tolist(), whole.conditional.tolist(), strict=True))  # type: ignore[union-attr]
        expected = dict(zip(old.rows.tolist(), old.conditional.tolist(), strict=True))  # type: ignore[union-attr]
        expected |= dict(zip(new.rows.tolist(), new.conditional.tolist(), strict=True))  # type: ignore[union-attr]
        assert held == expected


def test_it_says_all_that_it_is_of_and_is_kept_as_a_file(tiny_model: LoadedModel) -> None:
    delta = in_turn(tiny_model, ((STYLE, (8, 9)), (FACT, (9, 10)), (OTHER, (8,))))
    made = delta.provenance
    assert (made.attributes, made.sites) == (("style/velor", "fact/zandia", "style/lumio"), (8, 9, 10))
    assert len(made.prompts) == 9
    assert [each["editor"] for each in json.loads(made.settings)["earlier"]] == ["loco_edit", "loco_edit"]
    read = from_bytes(to_bytes(delta), "memory")
    assert read.provenance == made
    assert equal(state(tiny_model, read), state(tiny_model, delta))


def test_what_one_edit_cannot_say_is_refused(tiny_model: LoadedModel) -> None:
    """Rows that are held at values, and other rows of the same projection with new weights."""
    closed, held = alone(tiny_model, STYLE, (8,)), alone(tiny_model, FACT, (8,), NEURONS)
    with pytest.raises(EditError, match="no one edit can"):
        one_after_the_other(tiny_model, held, closed)


@given(
    first=st.sets(st.integers(0, 15), min_size=1), then=st.sets(st.integers(0, 15), min_size=1), seed=st.integers(0, 99)
)
@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_rows_of_two_edits_make_one_that_does_the_same(
    tiny_model: LoadedModel, first: set[int], then: set[int], seed: int
) -> None:
    path = tiny_model.sites[8].key_path
    module = changed_projection(tiny_model, Change(path, torch.tensor([0])))
    noise, made = torch.Generator().manual_seed(seed), alone(tiny_model, STYLE, (8,)).provenance

    def edit(rows: set[int]) -> WeightDelta:
        values = torch.randn(len(rows), module.in_features, generator=noise)
        return WeightDelta(made, (Change(path, torch.tensor(sorted(rows)), values),))

    one, two = edit(first), edit(then)
    with applied(tiny_model, one, WEIGHTS):
        expected = state(tiny_model, two)
    assert equal(state(tiny_model, one_after_the_other(tiny_model, one, two)), expected)
