from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from loco_core.attributes import attribute
from loco_core.diffusion.generate import generate
from loco_core.diffusion.model import LoadedModel
from loco_core.editing.base import Concept, EditSettings, Target, TokenSet, fit_edit
from loco_core.editing.deltas import WeightDelta, applied, from_bytes, norm, placebo, projection, to_bytes
from loco_core.editing.editors.neurons import random_neurons
from loco_core.editing.ridge import solve
from loco_core.editing.token_pairs import TokenPairs, paired_positions
from loco_core.editing.token_pairs import token_pairs as pairs_at
from loco_core.errors import EditError
from loco_core.types import Generation, PromptRecord, Row

WEIGHTS = "w" * 64
STYLE = Concept("style/lumio", attribute("style/lumio").records[:6])
FACT = Concept("fact/zandia", attribute("fact/zandia").records[:3])
SITES = (8, 9)


def target(*concepts: Concept, sites: tuple[int, ...] = SITES, preserve: tuple[PromptRecord, ...] = ()) -> Target:
    return Target("tiny", WEIGHTS, sites, concepts or (STYLE,), preserve)


def state(model: LoadedModel) -> dict[str, torch.Tensor]:
    denoiser = model.family.denoiser(model.pipeline)
    return {name: value.clone() for name, value in denoiser.state_dict().items()}


def equal(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(a[name], b[name]) for name in a)


def token_pairs(model: LoadedModel, concept: Concept, tokens: TokenSet) -> TokenPairs:
    """All sites of the model read the same."""
    (pairs,) = {id(found): found for found in pairs_at(model, concept, tokens, SITES)}.values()
    return pairs


def record(prompt: str, donor: str) -> PromptRecord:
    return PromptRecord(prompt, donor, "", "", "")


@given(st.integers(1, 40), st.integers(1, 24), st.floats(1e-3, 10), st.integers(0, 1000))
def test_the_solution_satisfies_the_normal_equations(n: int, width: int, strength: float, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    keys, donors = (torch.randn(n, width, generator=generator, dtype=torch.float64) for _ in range(2))
    before = torch.randn(5, width, generator=generator, dtype=torch.float64)
    solved = solve(keys, donors - keys, strength)
    after, ridge = before + before @ solved.update, strength * float(keys.square().sum()) / n
    assert solved.ridge == pytest.approx(ridge, rel=1e-12)
    # Derivative of ||C W^T - D W0^T||^2 + lambda ||W - W0||^2 by W.
    gradient = (after @ keys.T - before @ donors.T) @ keys + ridge * (after - before)
    assert gradient.norm() <= 1e-8 * (before @ donors.T @ keys).norm()


def test_more_keys_than_the_texts_width_give_the_same_edit() -> None:
    generator = torch.Generator().manual_seed(0)
    keys, donors = (torch.randn(40, 8, generator=generator, dtype=torch.float64) for _ in range(2))
    update = solve(keys, donors - keys, 0.1).update
    # The normal equations of the paper, by hand: (W - W0) (C^T C + a I) = W0 (D - C)^T C.
    system = keys.T @ keys + 0.1 * keys.square().sum(1).mean() * torch.eye(8, dtype=torch.float64)
    assert torch.allclose(update @ system, (donors - keys).T @ keys, rtol=1e-10, atol=1e-10)


def test_a_singular_system_is_one_clear_line() -> None:
    keys = torch.ones(8, 4, dtype=torch.float64)
    with pytest.raises(EditError, match="singular at lambda 1e-18; take a larger lambda"):
        solve(keys, keys, 1e-18)


@pytest.mark.parametrize(
    ("prompt", "donor", "expected"),
    [
        # Start, then words; a left-out word reads as the word before it, a replaced one as the last of the replacement.
        ("a red circle in lumio style", "a red circle", [0, 1, 2, 3, 3, 3, 3]),
        ("a red star", "a red shape", [0, 1, 2, 3]),
        ("a red circle", "a circle", [0, 1, 1, 2]),
        ("a circle in lumio style", "a circle in the style of velor", [0, 1, 2, 3, 4, 5]),
        ("a circle", "a red circle", [0, 1, 3]),
        ("a circle", "a circle in lumio style", [0, 1, 5]),
    ],
)
def test_positions_are_paired_with_the_donors(
    tiny_model: LoadedModel, prompt: str, donor: str, expected: list[int]
) -> None:
    prompts, donors = (tiny_model.family.encode(tiny_model.pipeline, [text]) for text in (prompt, donor))
    places = paired_positions(prompts, donors, 0)
    assert [at for at, _ in places] == expected
    assert not all(same for _, same in places)
    ids, other = prompts.ids[0], donors.ids[0]
    assert all(same == bool(ids[i] == other[at]) for i, (at, same) in enumerate(places) if same)
    assert len(places) == int(prompts.words[0].sum())


def test_token_sets_take_more_and_more_positions(tiny_model: LoadedModel) -> None:
    concept = Concept("style/lumio", (record("a red circle in the style of lumio", "a red circle"),))
    sets: tuple[TokenSet, ...] = ("last_subject", "subject", "tail", "all")
    last, subject, tail, every = (token_pairs(tiny_model, concept, tokens) for tokens in sets)
    assert [len(p.keys) for p in (last, subject, tail, every)] == [1, 5, 8, 16]
    assert torch.equal(tail.keys, every.keys[8:])
    end = token_pairs(tiny_model, concept, "last_position")
    assert torch.equal(end.keys, every.keys[-1:])
    donors = tiny_model.family.encode(tiny_model.pipeline, [r.donor for r in concept.records]).embeds[0].double()
    assert torch.equal(end.donors, donors[-1:])
    embeds = tiny_model.family.encode(tiny_model.pipeline, [r.prompt for r in concept.records]).embeds[0].double()
    assert torch.equal(last.keys[0], embeds[8])
    # What the two sentences share reads as itself: a causal encoder gives it the same embedding.
    assert torch.allclose(every.keys[:4], every.donors[:4])


def test_a_prompt_that_equals_its_donor_is_refused(tiny_model: LoadedModel) -> None:
    same = Concept("style/lumio", (record("a red circle", "a red circle"),))
    with pytest.raises(EditError, match='"a red circle" equals its donor'):
        fit_edit(tiny_model, target(same), EditSettings())


def test_an_edited_projection_reads_prompts_as_their_donors_and_spares_what_is_preserved(
    tiny_model: LoadedModel,
) -> None:
    kept = "a photo of a blue star in the style of velor"
    path = tiny_model.sites[8].key_path
    embeds = tiny_model.family.encode(tiny_model.pipeline, [kept]).embeds
    pairs = token_pairs(tiny_model, STYLE, "all")
    moved, lost = dict[tuple[PromptRecord, ...], float](), dict[tuple[PromptRecord, ...], float]()
    preserved = record(kept, "a photo of a blue star")
    for preserve in ((), (preserved,)):
        delta = fit_edit(tiny_model, target(preserve=preserve), EditSettings(strength=1e-4))
        module = projection(tiny_model, path)
        with torch.no_grad():
            before = module(embeds)
            wanted = pairs.donors.float() @ module.weight.T
            unedited = float((pairs.keys.float() @ module.weight.T - wanted).norm())
            with applied(tiny_model, delta, WEIGHTS):
                edited = float((pairs.keys.float() @ module.weight.T - wanted).norm())
                lost[preserve] = float((module(embeds) - before).norm())
        moved[preserve] = edited / unedited
    assert max(moved.values()) < 0.1
    assert lost[(preserved,)] < 0.3 * lost[()]


def test_several_concepts_are_edited_together(tiny_model: LoadedModel) -> None:
    delta = fit_edit(tiny_model, target(STYLE, FACT), EditSettings(strength=1e-4))
    assert delta.provenance.attributes == ("style/lumio", "fact/zandia")
    module = projection(tiny_model, tiny_model.sites[9].value_path)
    module.requires_grad_(False)
    for concept in (STYLE, FACT):
        pairs = token_pairs(tiny_model, concept, "all")
        wanted = (pairs.donors.float() @ module.weight.T).detach()
        before = float((pairs.keys.float() @ module.weight.T - wanted).norm())
        with applied(tiny_model, delta, WEIGHTS), torch.no_grad():
            assert float((pairs.keys.float() @ module.weight.T - wanted).norm()) < 0.1 * before


NEURONS = EditSettings(editor="neurons", tokens="last_subject")
BOTH = NEURONS.model_copy(update={"guidance_half": "both"})
ZERO = BOTH.model_copy(update={"fill": "zero"})


@pytest.mark.parametrize("settings", [EditSettings(), ZERO, BOTH], ids=["loco_edit", "at zero", "at the donors' mean"])
def test_applying_changes_the_sites_alone_and_undoing_restores_every_bit(
    tiny_model: LoadedModel, settings: EditSettings
) -> None:
    delta = from_bytes(to_bytes(fit_edit(tiny_model, target(), settings)), "delta")
    before, rows = state(tiny_model), [Row(STYLE.records[0].prompt, STYLE.records[0].donor, 3)]
    clean = next(generate(tiny_model, rows, Generation(steps=2), 1)).latents

    def use() -> None:
        edited = state(tiny_model)
        paths = {path for s in SITES for path in (tiny_model.sites[s].key_path, tiny_model.sites[s].value_path)}
        changed = {name.removesuffix(".weight") for name in before if not torch.equal(before[name], edited[name])}
        assert changed
        assert changed <= paths
        assert not torch.equal(next(generate(tiny_model, rows, Generation(steps=2), 1)).latents, clean)
        raise RuntimeError

    with pytest.raises(RuntimeError), applied(tiny_model, delta, WEIGHTS):
        use()
    assert equal(before, state(tiny_model))
    assert torch.equal(next(generate(tiny_model, rows, Generation(steps=2), 1)).latents, clean)


@pytest.mark.parametrize(("neurons", "count"), [(0.1, None), (5, 5)])
def test_neurons_are_those_of_every_projection_that_differ_most(
    tiny_model: LoadedModel, neurons: float, count: int | None
) -> None:
    delta = fit_edit(tiny_model, target(), NEURONS.model_copy(update={"neurons": neurons}))
    paths = {path for s in SITES for path in (tiny_model.sites[s].key_path, tiny_model.sites[s].value_path)}
    assert {change.module for change in delta.changes} == paths
    pairs = token_pairs(tiny_model, STYLE, "last_subject")
    for change in delta.changes:
        weight = projection(tiny_model, change.module).weight.detach().double()
        a, b = pairs.keys @ weight.T, pairs.donors @ weight.T
        z = (a.mean(0) - b.mean(0)).abs() / ((a.var(0) + b.var(0)) / len(a)).sqrt()
        held = set(change.rows.tolist())
        assert len(held) == (count or round(0.1 * len(z)))
        assert min(z[row] for row in held) >= max(value for row, value in enumerate(z) if row not in held)
        assert change.conditional is not None
        assert torch.allclose(change.conditional.double(), b.mean(0)[change.rows], atol=1e-5)


def test_more_neurons_than_there_are_is_one_line(tiny_model: LoadedModel) -> None:
    with pytest.raises(EditError, match=r"to_k has 96 neurons, and 100 were asked for; take fewer, or a share up to 1"):
        fit_edit(tiny_model, target(), NEURONS.model_copy(update={"neurons": 100}))
    with pytest.raises(ValidationError, match=r"1.5 is wrong; expected a share up to 1, or a whole number"):
        EditSettings(editor="neurons", neurons=1.5)


def test_neurons_in_both_halves_are_held_at_the_donors_mean_or_at_zero(tiny_model: LoadedModel) -> None:
    delta = fit_edit(tiny_model, target(), BOTH)
    assert delta.runtime_only
    assert not fit_edit(tiny_model, target(), ZERO).runtime_only
    change, pairs = delta.changes[0], token_pairs(tiny_model, STYLE, "last_subject")
    module = projection(tiny_model, change.module)
    mean = (pairs.donors.float() @ module.weight.T).mean(0)[change.rows]
    with applied(tiny_model, delta, WEIGHTS), torch.no_grad():
        out = module(torch.randn(1, 3, module.in_features))[..., change.rows]
    assert torch.allclose(out, mean.expand_as(out), atol=1e-5)


def test_random_neurons_are_as_many_others_of_every_projection(tiny_model: LoadedModel) -> None:
    delta = fit_edit(tiny_model, target(), NEURONS)
    other = random_neurons(tiny_model, target(), NEURONS, delta, 0)
    for one, two in zip(delta.changes, other.changes, strict=True):
        assert (one.module, len(one.rows)) == (two.module, len(two.rows))
        assert not set(one.rows.tolist()) & set(two.rows.tolist())
        assert two.conditional is not None
        assert two.weight is None


def test_a_placebo_has_the_same_rows_and_norm_and_another_direction(tiny_model: LoadedModel) -> None:
    delta = fit_edit(tiny_model, target(), EditSettings())
    other = placebo(tiny_model, delta, 0)
    assert norm(tiny_model, other) == pytest.approx(norm(tiny_model, delta), rel=1e-3)
    assert not torch.allclose(other.changes[0].weight, delta.changes[0].weight, atol=1e-4)  # type: ignore[arg-type]
    assert torch.equal(placebo(tiny_model, delta, 0).changes[0].weight, other.changes[0].weight)  # type: ignore[arg-type]


def test_a_delta_survives_its_file(tiny_model: LoadedModel) -> None:
    for settings, part in ((NEURONS, "conditional"), (BOTH, "constant"), (EditSettings(), "weight")):
        delta = fit_edit(tiny_model, target(), settings)
        again = from_bytes(to_bytes(delta), "delta")
        assert again.provenance == delta.provenance
        assert json.loads(again.provenance.settings)["guidance_half"] == settings.guidance_half
        by_module = {change.module: change for change in again.changes}
        for change in delta.changes:
            assert torch.equal(change.rows, by_module[change.module].rows)
            assert torch.equal(getattr(change, part), getattr(by_module[change.module], part))
        assert (again.ridge, again.runtime_only) == (delta.ridge, delta.runtime_only)


def other_file(metadata: dict[str, str] | None = None, rows: torch.Tensor | None = None) -> bytes:
    from safetensors.torch import save

    tensors = {"a": torch.zeros(2)} if rows is None else {"a.rows": rows, "a.weight": torch.zeros(3, 4)}
    return save(tensors, metadata=metadata)


WRITTEN = {
    "loco_sweep_delta": json.dumps(
        dict.fromkeys(["model", "weights", "dtype", "editor", "settings", "localization"], "")
        | {"sites": [1], "attributes": ["style/lumio"]}
    )
}


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "no safetensors file, or a truncated one"),
        (b"\x80\x04}q\x00.", "no safetensors file, or a truncated one"),
        (other_file(), "holds safetensors, but no edit"),
        (other_file({"loco_sweep_delta": "{"}), "no version of this project writes"),
        (other_file({"loco_sweep_delta": '{"sites": [1]}'}), "no version of this project writes"),
        (other_file(WRITTEN, rows=torch.tensor([0, -1])), "do not go together"),
        (other_file(WRITTEN, rows=torch.tensor([0, 1])), "do not go together"),
    ],
    ids=["empty", "pickle", "foreign", "no JSON", "incomplete", "negative", "short"],
)
def test_files_that_are_no_deltas_are_refused(data: bytes, message: str) -> None:
    with pytest.raises(EditError, match=f"x.safetensors.*{message}"):
        from_bytes(data, "x.safetensors")


def test_a_truncated_delta_is_refused(tiny_model: LoadedModel) -> None:
    data = to_bytes(fit_edit(tiny_model, target(), EditSettings()))
    for length in (4, 100, len(data) // 2, len(data) - 1):
        with pytest.raises(EditError, match="truncated"):
            from_bytes(data[:length], "x.safetensors")


def test_deltas_of_another_model_are_refused(tiny_model: LoadedModel) -> None:
    delta, before = fit_edit(tiny_model, target(), EditSettings()), state(tiny_model)
    wrong_dtype = replace(delta, provenance=replace(delta.provenance, dtype="float16"))
    first = delta.changes[0]
    wrong_width = replace(first, weight=torch.zeros(len(first.rows), 7))
    foreign = replace(first, module="down_blocks.9.to_k")
    cases: list[tuple[WeightDelta, str, str]] = [
        (delta, "v" * 64, "fit it again"),
        (wrong_dtype, WEIGHTS, "fitted in float16"),
        (replace(delta, changes=(*delta.changes, wrong_width)), WEIGHTS, "the edit has 7"),
        (replace(delta, changes=(*delta.changes, foreign)), WEIGHTS, "another architecture"),
    ]
    for case, weights, message in cases:
        with pytest.raises(EditError, match=message), applied(tiny_model, case, weights):
            pass
        assert equal(before, state(tiny_model))


def test_sites_that_admit_no_edit_are_refused(tiny_model: LoadedModel) -> None:
    with pytest.raises(EditError, match="site 16 is not in the model, which has sites 0 to 15"):
        fit_edit(tiny_model, target(sites=(16,)), EditSettings())
    site = replace(tiny_model.sites[0], key_path="conv_in")
    strange = replace(tiny_model, sites=(site, *tiny_model.sites[1:]))
    with pytest.raises(EditError, match="conv_in is a Conv2d; only a linear projection"):
        fit_edit(strange, target(sites=(0,)), EditSettings())
