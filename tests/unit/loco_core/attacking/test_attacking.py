from __future__ import annotations

import pytest
import torch
from diffusers import DDIMScheduler, DPMSolverMultistepScheduler, EulerDiscreteScheduler
from hypothesis import given
from hypothesis import strategies as st

from loco_core.attacking.base import AttackChoice, attack_settings, check_attackable
from loco_core.attacking.drawing import started_from
from loco_core.attacking.free_tokens import SLOT, FreeTokens, in_place
from loco_core.attacking.learning import denoising_loss, family_of, learn, noising
from loco_core.diffusion.facts import families
from loco_core.diffusion.generate import generate
from loco_core.diffusion.model import LoadedModel
from loco_core.editing.deltas import Change, Provenance, WeightDelta, applied
from loco_core.errors import SpecError
from loco_core.testing.attacks import RECORDS, SETTINGS
from loco_core.types import Engine, Row

WORDS = st.lists(st.sampled_from(["a", "red", "circle", "style", "of", "velor", "heart"]), max_size=5)


@given(first=WORDS, mine=WORDS, theirs=WORDS, last=WORDS)
def test_a_slot_takes_the_place_of_what_the_donor_changes(
    first: list[str], mine: list[str], theirs: list[str], last: list[str]
) -> None:
    prompt, donor = " ".join([*first, *mine, *last]), " ".join([*first, *theirs, *last])
    before, after = in_place(prompt, donor).split(SLOT)
    for side in (prompt, donor):
        words, left, right = side.split(), before.split(), after.split()
        assert words[: len(left)] == left
        assert words[len(words) - len(right) :] == right
        assert len(left) + len(right) <= len(words)


def test_a_slot_reads_its_vector_and_nothing_else_does(tiny_model: LoadedModel) -> None:
    tokens = FreeTokens(tiny_model, 2)
    texts = [f"{SLOT} {SLOT} red circle", "a red circle"]
    plain = tokens.encode(texts)
    with torch.no_grad():
        # Not the same in all coordinates, which a norm would take away.
        tokens.vectors[1] += torch.linspace(-1, 1, tokens.vectors.shape[1])
    moved = tokens.encode(texts)
    # The first word stands at 1, behind the start; CLIP reads from left to right.
    assert torch.equal(plain.embeds[0, :2], moved.embeds[0, :2])
    assert not torch.allclose(plain.embeds[0, 2], moved.embeds[0, 2])
    assert torch.equal(plain.embeds[1], moved.embeds[1])
    own = tiny_model.family.encode(tiny_model.pipeline, ["a red circle"])
    assert torch.allclose(moved.embeds[1], own.embeds[0], atol=1e-5)


def test_a_run_that_is_whole_begins_as_the_pipeline_does(tiny_model: LoadedModel) -> None:
    (plain,) = generate(tiny_model, [Row("a red circle", "a circle", 3)], SETTINGS, 1)
    noise = torch.randn(1, *plain.latents.shape[1:], generator=torch.Generator().manual_seed(3))
    pipeline = tiny_model.pipeline
    last = DDIMScheduler.from_config(pipeline.scheduler.config)
    last.set_timesteps(SETTINGS.steps)
    kept = float(last.alphas_cumprod[last.timesteps[0]])
    # What the scheduler makes of latents under noise at the first time is to be the noise itself.
    clean = (1 - (1 - kept) ** 0.5) / kept**0.5 * noise

    def begun(strength: float) -> torch.Tensor:
        row = [Row("a red circle", "a circle", 3)]
        during = lambda: started_from(pipeline, clean, noise, strength)  # noqa: E731
        return next(generate(tiny_model, row, SETTINGS, 1, during=during)).images

    assert torch.allclose(begun(1.0), plain.images, atol=1e-4)
    assert not torch.allclose(begun(0.5), plain.images, atol=1e-2)


@pytest.mark.parametrize("scheduler", [DDIMScheduler, EulerDiscreteScheduler, DPMSolverMultistepScheduler])
def test_a_clean_picture_under_little_noise_comes_back(tiny_model: LoadedModel, scheduler: type) -> None:
    """A random denoiser changes little in one of many steps."""
    pipeline, own = tiny_model.pipeline, tiny_model.pipeline.scheduler
    latents = torch.randn(1, *_shape(tiny_model), generator=torch.Generator().manual_seed(1))
    noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(2))
    settings = type(SETTINGS)(steps=40, guidance_scale=1.0)
    pipeline.scheduler = scheduler.from_config(own.config)
    try:
        during = lambda: started_from(pipeline, latents, noise, 1 / 40)  # noqa: E731
        (found,) = generate(tiny_model, [Row("a red circle", "a circle", 3)], settings, 1, during=during)
    finally:
        pipeline.scheduler = own
    assert float((found.latents - latents).square().mean().sqrt()) < 0.3


def _shape(model: LoadedModel) -> tuple[int, ...]:
    (part,) = generate(model, [Row("a", "a", 0)], SETTINGS, 1)
    return tuple(part.latents.shape[1:])


def test_learning_lowers_the_loss_on_the_clean_pictures(tiny_model: LoadedModel) -> None:
    from loco_core.attacking.attacks import soft_prompt
    from loco_core.attacking.base import AttackTask, Clean

    rows = [Row(record.prompt, record.donor, 7) for record in RECORDS]
    (part,) = generate(tiny_model, rows, SETTINGS, 2)
    task = AttackTask(Clean(part.images, RECORDS), SETTINGS, 2, 0)
    tokens = FreeTokens(tiny_model, 2)
    texts = [f"{SLOT} {SLOT} {record.prompt}" for record in RECORDS]
    clean = family_of(tiny_model).latents(tiny_model.pipeline, part.images)

    def loss() -> float:
        with torch.no_grad():
            generator = torch.Generator().manual_seed(5)
            many = [0, 1] * 8
            found = denoising_loss(
                tiny_model, noising(tiny_model), clean[many], tokens.encode([texts[i] for i in many]), generator
            )
            return float(found)

    before = loss()
    settings = soft_prompt.Settings(steps=30, batch_size=4)
    learn(
        tiny_model, task, settings, tokens.spread, [tokens.vectors],
        lambda numbers: tokens.encode([texts[i] for i in numbers]),
    )  # fmt: skip
    assert loss() < before
    assert all(weight.grad is not None for weight in [tokens.vectors])
    for weight in tiny_model.pipeline.unet.parameters():
        weight.grad = None


def test_what_holds_the_conditional_half_alone_holds_while_an_attack_learns(tiny_model: LoadedModel) -> None:
    module = tiny_model.sites[0].value_path
    held = Change(module, torch.arange(2), conditional=torch.tensor([5.0, 5.0]))
    made = Provenance("tiny", "w" * 64, "float32", (0,), ("style/velor",), "neurons", "{}", "by hand")
    seen: list[torch.Tensor] = []

    def keep(_: torch.nn.Module, __: object, found: torch.Tensor) -> None:
        seen.append(found.detach())

    texts = tiny_model.encode(["a red circle", "a blue star"])
    latents = torch.zeros(2, *_shape(tiny_model))
    with applied(tiny_model, WeightDelta(made, (held,)), None):
        projection = tiny_model.family.denoiser(tiny_model.pipeline).get_submodule(module)
        handle = projection.register_forward_hook(keep)
        denoising_loss(tiny_model, noising(tiny_model), latents, texts, torch.Generator().manual_seed(0))
        handle.remove()
    assert len(seen[0]) == 2
    assert (seen[0][..., :2] == 5.0).all()
    assert tiny_model.running.conditional is None


@pytest.mark.parametrize(
    ("family", "dtype", "engine", "words"),
    [
        ("flux", "float32", Engine(), "cannot be attacked; expected a model of the families pixart, stable_diffusion"),
        ("pixart", "float16", Engine(), "too small for the float16"),
        ("pixart", "float32", Engine(offload="model"), "offload: model"),
        ("pixart", "float32", Engine(device_map="balanced"), "device_map: balanced"),
    ],
)
def test_what_cannot_be_attacked_is_refused(family: str, dtype: str, engine: Engine, words: str) -> None:
    with pytest.raises(SpecError, match=words):
        check_attackable("mine", family, families()[family], "relearn", dtype, engine)
    if family == "pixart":
        # It takes no gradients.
        check_attackable("mine", family, families()[family], "noised_clean", dtype, engine)


def test_settings_of_another_attack_are_refused_by_name() -> None:
    with pytest.raises(SpecError, match='relearn has no setting "strength"') as refused:
        attack_settings(AttackChoice("relearn", {"strength": 0.5}))
    assert refused.value.loc == ("strength",)
