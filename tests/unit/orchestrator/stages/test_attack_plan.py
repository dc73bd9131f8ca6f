from __future__ import annotations

from typing import Any

from orchestrator.resolve.resolved import Resolved, ResolvedModel
from orchestrator.stages.attack.plan import FIRST_CLEAN_SEED, attack_units
from orchestrator.stages.edit.candidates import candidates
from tests.support.edit_specs import STYLE, TOY, replaced, spec


def planned(model: ResolvedModel = TOY, floor: ResolvedModel | None = None, **changes: Any) -> dict[str, Any]:
    """Returns the units of one attack on one edit, by who is attacked."""
    s = spec(evaluate={"prompts": 2, "seeds": 2, "attacks": ["noised_clean"]}, **changes)
    resolved = Resolved.model_construct(models=(model,), attributes=(STYLE,), judge=None, metrics=(), floor=floor)
    (edit, *_) = candidates(s, TOY, STYLE, (8, 9), "localized")
    units = attack_units(s, resolved, model, STYLE, [edit], "", 0)
    return {unit.payload.who: unit for unit in units}


def names(**changes: Any) -> dict[str, str]:
    return {who: unit.unit_id for who, unit in planned(**changes).items()}


def test_what_changes_the_pictures_of_a_model_or_its_floor_is_another_unit() -> None:
    before = names(floor=TOY)
    assert names(floor=TOY) == before
    other = TOY.model_copy(update={"dtype": "bfloat16"})
    for model in (replaced(TOY), other):
        assert not set(names(model=model, floor=TOY).values()) & set(before.values())
    moved = names(floor=replaced(TOY))
    assert moved["floor"] != before["floor"]
    assert {**moved, "floor": ""} == {**before, "floor": ""}
    # It computes as the model does, whatever it was resolved with.
    assert names(floor=other) == before


def test_a_floor_is_held_against_each_model_in_its_own_number_format() -> None:
    other = TOY.model_copy(update={"dtype": "bfloat16"})
    for model in (TOY, other):
        floor = planned(model=model, floor=TOY)["floor"].payload.floor
        assert floor == TOY.model_copy(update={"dtype": model.dtype})


def test_nothing_that_an_attack_is_given_is_drawn_to_see_what_returned() -> None:
    unit = planned()["edited"]
    given, drawn = unit.payload.records, unit.payload.probes
    assert not {record.prompt for record in given} & {probe.record.prompt for probe in drawn}
    assert max(probe.seed for probe in drawn) < FIRST_CLEAN_SEED
    # Both are judged against the same texts.
    assert any(record.siblings for record in planned(margin="siblings")["edited"].payload.records)
    assert not any(record.siblings for record in planned(margin="donor")["edited"].payload.records)
