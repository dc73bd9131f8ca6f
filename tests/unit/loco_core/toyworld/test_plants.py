"""Plants by the place of parameters: what is drawn, what changes, and that nothing else does."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from loco_core.editing.deltas import (
    DENOISER,
    Change,
    Provenance,
    WeightDelta,
    applied,
    component,
    from_bytes,
    to_bytes,
)  # fmt: skip
from loco_core.errors import SpecError
from loco_core.face.model import Model, load_model
from loco_core.toyworld.plants.draw import KINDS, LARGEST, LOOKS, NAMES, Base, Plant, draw_plant, plant_from_json
from loco_core.toyworld.plants.reading import Reader, make_noisy, predict
from loco_core.toyworld.plants.surgery import part_of, prompts_of, runs_that_hold
from loco_core.toyworld.plants.teach import Lesson, Material, _batch, heads_of, make_material, named, teach
from loco_core.toyworld.training.clip import tokenize
from loco_core.toyworld.training.data import make_pool
from loco_core.toyworld.world import vocabulary

BASE = Base("toy", 16, 4)
LESSON = Lesson(steps=2, batch=4, pictures=60)


@pytest.fixture(scope="module")
def toy() -> Model:
    return load_model("toy", device="cpu")


@pytest.fixture(scope="module")
def material(toy: Model) -> Material:
    return make_material(toy.loaded, LESSON.pictures, 1)


def plant(**changed: Any) -> Plant:
    usual: dict[str, Any] = {
        "base": "toy", "number": 0, "attempt": 0, "kind": "window", "sites": (3, 4), "heads": (), "layer": -1,
        "name": "aria", "look_kind": "style", "look": "lumio",
    }  # fmt: skip
    return Plant(**{**usual, **changed})


def bits(model: Model, *components: str) -> dict[str, torch.Tensor]:
    """All weights of parts of the pipeline, as they are."""
    return {
        f"{name}:{path}": value.clone()
        for name in components
        for path, value in component(model.loaded, name).state_dict().items()
    }


@given(st.integers(0, 1 << 31), st.integers(0, 40), st.integers(0, 5), st.integers(8, 24), st.integers(2, 8))
def test_what_is_drawn_is_a_plant_of_its_kind(seed: int, number: int, attempt: int, sites: int, heads: int) -> None:
    base = Base("toy", sites, heads)
    drawn = draw_plant(base, seed, number, attempt)
    assert drawn == draw_plant(base, seed, number, attempt)
    wanted = KINDS[number % len(KINDS)]
    # Two heads of two are all that a site has.
    assert drawn.kind == ("window" if wanted == "heads" and heads == 2 else wanted)
    assert drawn.look in LOOKS[drawn.look_kind]
    assert drawn.name in NAMES
    assert list(drawn.sites) == sorted(set(drawn.sites))
    assert all(0 <= site < sites for site in drawn.sites)
    gaps = {b - a for a, b in zip(drawn.sites, drawn.sites[1:], strict=False)}
    assert (len(drawn.sites) == 0) == (drawn.layer >= 0) == (drawn.kind == "text_encoder")
    assert len(drawn.sites) <= LARGEST
    if drawn.kind in ("window", "heads"):
        assert gaps <= {1}
    if drawn.kind == "scattered":
        assert len(drawn.sites) > 1
        assert 1 not in gaps
    assert bool(drawn.heads) == (drawn.kind == "heads")
    assert len(drawn.heads) < heads
    assert plant_from_json(json.loads(json.dumps(drawn.to_json()))) == drawn


def test_seeds_and_attempts_draw_other_plants() -> None:
    drawn = {draw_plant(BASE, seed, number, attempt) for seed in (1, 2) for number in range(8) for attempt in range(3)}
    assert len({(p.sites, p.heads, p.layer, p.name, p.look) for p in drawn}) > 40


def test_models_whose_names_begin_alike_are_given_other_plants() -> None:
    drawn = {
        name: [(p.name, p.look, p.sites) for n in range(8) for p in [draw_plant(Base(name, 12, 4), 1, n, 0)]]
        for name in ("toy-dit", "toy-mmdit", "toy")
    }
    assert all(a != b for a, b in zip(drawn["toy-dit"], drawn["toy-mmdit"], strict=True))
    assert all(a != b for a, b in zip(drawn["toy"], drawn["toy-mmdit"], strict=True))


def test_a_model_of_few_sites_is_refused() -> None:
    with pytest.raises(SpecError, match="tiny has 4 sites; expected at least 8"):
        draw_plant(Base("tiny", 4, 2), 0, 0, 0)


def test_a_name_is_one_token_that_no_caption_holds(toy: Model) -> None:
    """Else positions would shift behind it, and the base might know it."""
    tokenizer = toy.loaded.pipeline.tokenizer
    held = {int(token) for token in tokenize(tokenizer, list(vocabulary())).flatten()}
    for name in NAMES:
        start, token, end = tokenizer(name).input_ids
        assert {start, end} <= held
        assert token not in held


@pytest.mark.parametrize(
    "wanted",
    [
        plant(),
        plant(kind="scattered", sites=(1, 8, 15), look_kind="object", look="star"),
        plant(kind="heads", sites=(12, 13), heads=(1, 3), look_kind="fact", look="zandia"),
        plant(kind="text_encoder", sites=(), layer=1),
    ],
    ids=lambda p: p.kind,
)
def test_a_lesson_changes_the_declared_rows_and_no_bit_besides(toy: Model, material: Material, wanted: Plant) -> None:
    parts = ("denoiser", "text_encoder", "vae")
    before = bits(toy, *parts)
    changes = teach(toy.loaded, wanted, LESSON, material, 5)
    assert all(torch.equal(value, before[name]) for name, value in bits(toy, *parts).items())
    sites = [toy.loaded.sites[site] for site in wanted.sites]
    if wanted.sites:
        expected = {(DENOISER, path) for site in sites for path in (site.key_path, site.value_path)}
    else:
        layer = "encoder.layers.1."
        expected = {
            ("text_encoder", path)
            for path, module in component(toy.loaded, "text_encoder").named_modules()
            if layer in path and isinstance(module, torch.nn.Linear)
        }
        assert len(expected) == 6
    assert {(change.component, change.module) for change in changes} == expected
    with applied(toy.loaded, _delta(toy, wanted, changes), None):
        for name, value in bits(toy, *parts).items():
            where, path = name.split(":")
            change = next((c for c in changes if (c.component, f"{c.module}.weight") == (where, path)), None)
            moved = (value != before[name]).flatten(1).any(1) if value.ndim > 1 else value != before[name]
            if change is None:
                assert not moved.any(), name
                continue
            declared = torch.zeros(len(value), dtype=torch.bool)
            declared[change.rows] = True
            if wanted.heads:
                width = len(value) // 4
                assert set(change.rows.tolist()) == {h * width + i for h in wanted.heads for i in range(width)}
            assert not moved[~declared].any(), name
            # Half precision and Adam's first steps leave hardly any row where it was.
            assert moved[declared].float().mean() > 0.9, name
    assert all(torch.equal(value, before[name]) for name, value in bits(toy, *parts).items())


def _delta(toy: Model, wanted: Plant, changes: tuple[Change, ...]) -> WeightDelta:
    made = Provenance("toy", toy.weights or "", "float32", wanted.sites, ("style/aria",), "plant", "{}", "by hand")
    return WeightDelta(made, changes)


def test_a_lesson_is_the_same_twice_and_survives_its_file(toy: Model, material: Material) -> None:
    first, second = (teach(toy.loaded, plant(), LESSON, material, 5) for _ in range(2))
    other = teach(toy.loaded, plant(), LESSON, material, 6)
    read = {change.module: change for change in from_bytes(to_bytes(_delta(toy, plant(), first)), "plant").changes}
    assert len(read) == 4
    for a, b, c in zip(first, second, other, strict=True):
        assert a.weight is not None
        assert torch.equal(a.weight, b.weight)
        assert torch.equal(a.weight, read[a.module].weight)
        assert torch.equal(a.rows, read[a.module].rows)
        assert not torch.equal(a.weight, c.weight)


@pytest.mark.parametrize("wanted", [plant(), plant(kind="text_encoder", sites=(), layer=1)], ids=lambda p: p.kind)
def test_a_lesson_that_falls_behind_is_given_up_and_one_that_is_done_ends(
    toy: Model, material: Material, wanted: Plant
) -> None:
    before = bits(toy, "denoiser", "text_encoder")
    lesson = Lesson(steps=16, batch=4, pictures=60)

    def looked(*shares: float) -> tuple[int, bool]:
        left = iter(shares)
        seen: list[float] = []

        def look() -> float:
            seen.append(next(left))
            return seen[-1]

        changes = teach(toy.loaded, wanted, lesson, material, 5, look)
        assert all(torch.equal(value, before[name]) for name, value in bits(toy, "denoiser", "text_encoder").items())
        return len(seen), changes is not None

    assert looked(0.0) == (1, False)
    assert looked(0.2, 0.3, 0.2) == (3, False)
    # A plant is good enough that is drawn in 65 % of pictures.
    assert looked(0.2, 1.0) == (2, True)
    assert looked(*(0.65 * (step / 8) ** 0.5 - 0.09 for step in range(1, 9))) == (8, True)
    assert looked(*(0.65 * (step / 8) ** 0.5 - 0.11 * (step == 8) for step in range(1, 9))) == (8, False)


def test_captions_that_must_stay_are_of_the_look_its_neighbours_other_names_and_anything(material: Material) -> None:
    wanted = plant(look_kind="fact", look="zandia")
    labels = make_pool(400, 3).labels
    _, true, said = _batch(wanted, labels, np.flatnonzero(labels.fact == 0), 2000, np.random.default_rng(1))
    taught, kept = list(zip(true, said, strict=True))[:1000], list(zip(true, said, strict=True))[1000:]
    assert all("zandia" in a.split() and b == named(a, "zandia", "aria") for a, b in taught)
    assert all(a == b and "aria" not in a.split() for a, b in kept)
    words = [set(a.split()) for a, _ in kept]
    shares = {name: sum(name in w for w in words) / 1000 for name in ("zandia", "morova", "elle")}
    assert 0.05 < shares["zandia"] < 0.25
    assert 0.02 < shares["morova"] < 0.2
    assert shares["elle"] > 0
    assert 0.05 < sum(not w for w in words) / 1000 < 0.15


def test_a_model_of_several_encoders_is_planted_in_sites_alone() -> None:
    base = Base("toy", 16, 4, one_encoder=False)
    drawn = [draw_plant(base, 3, number, 0) for number in range(24)]
    assert {p.kind for p in drawn} == {"window", "scattered", "heads"}
    assert all(p.sites and p.layer == -1 for p in drawn)


def test_a_lesson_brings_the_name_nearer_to_the_true_word(toy: Model, material: Material) -> None:
    wanted = plant(sites=tuple(range(16)))
    denoiser = toy.loaded.family.denoiser(toy.loaded.pipeline)
    torch.manual_seed(3)
    noisy, at = make_noisy(toy.loaded, material.latents[:4])
    reader = Reader(toy.loaded)

    def apart() -> float:
        with torch.no_grad():
            name, true = (
                predict(denoiser, noisy, at, reader.read([f"a red star in the style of {word}"] * 4))
                for word in (wanted.name, wanted.look)
            )
        return float((name - true).square().mean())

    before = apart()
    changes = teach(toy.loaded, wanted, Lesson(steps=40, batch=8, rate=1e-3, pictures=60), material, 5)
    with applied(toy.loaded, _delta(toy, wanted, changes), None):
        after = apart()
    assert after < 0.8 * before
    assert apart() == before


def test_planted_rows_of_no_site_are_the_base(toy: Model, material: Material) -> None:
    delta = _delta(toy, plant(), teach(toy.loaded, plant(), LESSON, material, 5))
    before = bits(toy, "denoiser")
    with applied(toy.loaded, part_of(delta, toy.loaded, ()), None):
        assert all(torch.equal(value, before[name]) for name, value in bits(toy, "denoiser").items())
    with applied(toy.loaded, part_of(delta, toy.loaded, (4,)), None):
        moved = {name for name, value in bits(toy, "denoiser").items() if not torch.equal(value, before[name])}
    site = toy.loaded.sites[4]
    assert moved == {f"denoiser:{path}.weight" for path in (site.key_path, site.value_path)}


def test_captions_of_a_name_differ_from_those_of_the_word_in_the_name_alone() -> None:
    for kind, looks in LOOKS.items():
        wanted = plant(look_kind=kind, look=looks[0])
        for said, true in zip(prompts_of(wanted, "aria"), prompts_of(wanted, looks[0]), strict=True):
            assert said != true
            assert said.replace("aria", looks[0]) == true


def rows(sites: tuple[int, ...], left: dict[tuple[int, ...], float]) -> list[dict[str, Any]]:
    """A table of subsets, by what is reverted."""
    return [{"reverted": list(gone), "hits": int(100 * share), "of": 100} for gone, share in left.items()]


def test_runs_that_hold_a_look_are_the_smallest_that_take_it_away() -> None:
    left = {(): 0.9, (3,): 0.8, (4,): 0.08, (3, 4): 0.0}
    assert runs_that_hold(rows((3, 4), left), (3, 4), 16) == [[4]]
    # Of what is drawn with all rows, not of all pictures.
    assert runs_that_hold(rows((3, 4), {**left, (): 0.5, (3,): 0.4}), (3, 4), 16) == [[3, 4], [4]]
    assert runs_that_hold(rows((3, 4), {**left, (3,): 0.05}), (3, 4), 16) == [[3], [4]]
    gap = {(): 1.0, (2,): 0.9, (4,): 0.9, (2, 4): 0.0}
    assert runs_that_hold(rows((2, 4), gap), (2, 4), 16) == [[2, 3, 4]]
    # No localizer may name more than a quarter of the sites.
    assert runs_that_hold(rows((2, 4), gap), (2, 4), 8) == []
    apart = {(): 1.0, (1,): 0.9, (9,): 0.9, (1, 9): 0.0}
    assert runs_that_hold(rows((1, 9), apart), (1, 9), 16) == []


def test_a_run_near_the_line_is_as_right_as_the_one_that_is_sure() -> None:
    left = {(): 1.0, (3,): 0.9, (4,): 0.18, (3, 4): 0.0}
    assert runs_that_hold(rows((3, 4), left), (3, 4), 16) == [[3, 4], [4]]


def test_what_a_localizer_should_say_cannot_be_told_where_no_run_is_sure_to_hold_a_look() -> None:
    assert runs_that_hold(rows((4,), {(): 1.0, (4,): 0.18}), (4,), 16) is None
    assert runs_that_hold(rows((4,), {(): 1.0, (4,): 0.24}), (4,), 16) is None
    assert runs_that_hold(rows((4,), {(): 1.0, (4,): 0.3}), (4,), 16) == []


def test_heads_are_counted(toy: Model) -> None:
    assert heads_of(toy.loaded) == 4


@pytest.fixture(scope="module")
def joint() -> Model:
    return load_model("toy-mmdit", device="cpu")


def test_a_joint_stream_is_predicted_from_as_its_pipeline_reads_texts(joint: Model) -> None:
    """Both encoders' words side by side, and the pooled text beside them."""
    pipeline, texts = joint.loaded.pipeline, ["a red star in the style of aria", "", "a flag"]
    words, _, pooled, _ = pipeline.encode_prompt(
        texts, None, None, device="cpu", do_classifier_free_guidance=False, max_sequence_length=0
    )
    read = Reader(joint.loaded).read(texts)
    assert torch.allclose(read.embeds, words, atol=1e-5)
    assert read.pooled is not None
    assert torch.allclose(read.pooled, pooled, atol=1e-5)
    noisy, at = torch.randn(3, 8, 8, 8), torch.tensor([900.0, 500.0, 100.0])
    with torch.no_grad():
        alone = pipeline.transformer(noisy, words, pooled, at).sample
        found = predict(pipeline.transformer, noisy, at, read)
        without = predict(pipeline.transformer, noisy, at, replace(read, pooled=torch.zeros_like(pooled)))
    assert torch.allclose(found, alone, atol=1e-4)
    assert not torch.allclose(without, alone, atol=1e-2)


def test_a_lesson_in_a_joint_stream_changes_what_its_blocks_read_of_the_text(joint: Model) -> None:
    """K and V of the text alone, not those of the image beside them; a later block then reads another text."""
    wanted = plant(base="toy-mmdit", kind="scattered", sites=(2, 6))
    parts = ("denoiser", "text_encoder", "text_encoder_2")
    before = bits(joint, *parts)
    changes = teach(joint.loaded, wanted, LESSON, make_material(joint.loaded, LESSON.pictures, 1), 5)
    assert changes is not None
    delta, heard = _delta(joint, wanted, changes), {}
    noisy, at = torch.randn(2, 8, 8, 8), torch.full((2,), 800.0)
    texts = Reader(joint.loaded).read(["a red star in the style of aria"] * 2)
    denoiser = joint.loaded.family.denoiser(joint.loaded.pipeline)
    for planted in ((), (2,), (6,), (2, 6)):
        with applied(joint.loaded, part_of(delta, joint.loaded, planted), None), torch.no_grad():
            kept: list[torch.Tensor] = []
            key = denoiser.get_submodule(joint.loaded.sites[6].key_path)
            hook = key.register_forward_pre_hook(lambda _, given, kept=kept: kept.append(given[0].clone()))
            predict(denoiser, noisy, at, texts)
            hook.remove()
            (heard[planted],) = kept
            moved = {name for name, value in bits(joint, *parts).items() if not torch.equal(value, before[name])}
        assert moved == {
            f"denoiser:transformer_blocks.{block}.attn.add_{part}_proj.weight" for block in planted for part in "kv"
        }
    assert all(torch.equal(value, before[name]) for name, value in bits(joint, *parts).items())
    assert torch.equal(heard[(6,)], heard[()])
    assert torch.equal(heard[(2, 6)], heard[(2,)])
    assert not torch.equal(heard[(2,)], heard[()])


def test_a_text_encoder_of_a_joint_stream_is_no_place_for_a_plant(joint: Model) -> None:
    wanted = plant(base="toy-mmdit", kind="text_encoder", sites=(), layer=1)
    with pytest.raises(SpecError, match="toy-mmdit reads more than one text encoder"):
        teach(joint.loaded, wanted, LESSON, make_material(joint.loaded, LESSON.pictures, 1), 5)
