"""The second stage of DeepFloyd IF: it enlarges what the first one drew, and no prompt reaches it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import IFPipeline, IFSuperResolutionPipeline

from loco_core.diffusion.generate import Pictures, generate
from loco_core.diffusion.model import LoadedModel, load_model
from loco_core.errors import ModelError
from loco_core.tracing.attention import contributions
from loco_core.types import Generation, Intervention, Row
from tests.support.tiny_models import SIDE, build, build_second_stage

SETTINGS = Generation(steps=3, guidance_scale=3.0)
PROMPT, DONOR = "a red circle in the style of lumio", "a blue star"


@pytest.fixture(scope="module")
def second(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_second_stage(tmp_path_factory.mktemp("models") / "second")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory, second: Path) -> LoadedModel:
    first = build("deepfloyd_if", tmp_path_factory.mktemp("models") / "first")
    return load_model("deepfloyd_if", str(first), None, "float32", "cpu", super_resolution=(str(second), None))


def every_site(model: LoadedModel, **options: Any) -> Intervention:
    return Intervention(tuple(range(len(model.sites))), **options)


def drawn(model: LoadedModel, *rows: Row, batch_size: int = 4, settings: Generation = SETTINGS) -> Pictures:
    parts = list(generate(model, rows, settings, batch_size))
    return Pictures(torch.cat([p.images for p in parts]), torch.cat([p.latents for p in parts]))


def enlarged(model: LoadedModel, pixels: torch.Tensor, seeds: list[int]) -> torch.Tensor:
    assert model.super_resolution is not None
    with torch.no_grad():
        return model.super_resolution.enlarge(model, pixels, seeds, SETTINGS.steps)


def test_pictures_have_the_size_of_the_second_stage_and_latents_are_those_of_the_first(model: LoadedModel) -> None:
    rows = [Row(PROMPT, DONOR, 0), Row(PROMPT, DONOR, 0, Intervention((1, 2)))]
    alone = drawn(replace(model, super_resolution=None), *rows)
    both = drawn(model, *rows)
    assert alone.images.shape == (2, 3, SIDE, SIDE)
    assert both.images.shape == (2, 3, 2 * SIDE, 2 * SIDE)
    assert float(both.images.min()) >= 0
    assert float(both.images.max()) <= 1
    assert torch.equal(both.latents, alone.latents)
    assert not torch.equal(both.images[0], both.images[1])


def test_sides_of_a_sweep_are_enlarged_alike(model: LoadedModel) -> None:
    settings = replace(SETTINGS, steps=1, height=SIDE // 2, width=2 * SIDE)
    assert drawn(model, Row(PROMPT, DONOR, 0), settings=settings).images.shape == (1, 3, SIDE, 4 * SIDE)


def test_what_is_no_picture_in_the_first_stage_is_none_in_the_second(
    model: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    call = IFPipeline.__call__

    def collapsed(self: IFPipeline, **given: Any) -> Any:
        found = call(self, **given)
        found.images[1] = -1.0
        found.images[2, 0, 0, 0] = torch.nan
        return found

    monkeypatch.setattr(IFPipeline, "__call__", collapsed)
    images = drawn(model, *(Row(PROMPT, DONOR, seed) for seed in range(3))).images
    assert images.isnan().all(dim=(1, 2, 3)).tolist() == [False, True, True]


def test_it_is_a_plain_call_with_the_empty_prompt_unguided(model: LoadedModel, second: Path) -> None:
    """Of diffusers' own class as saved, with an encoder and guidance of its own left unused."""
    rows = [Row(PROMPT, DONOR, 3), Row(PROMPT, DONOR, 5, every_site(model))]
    found = drawn(model, *rows, batch_size=2)
    plain = IFSuperResolutionPipeline.from_pretrained(second, use_safetensors=True)
    plain.set_progress_bar_config(disable=True)
    arguments: dict[str, Any] = {"num_inference_steps": SETTINGS.steps, "output_type": "pt"}
    for text, same in (("", True), (PROMPT, False)):
        embeds, _ = model.pipeline.encode_prompt([text], do_classifier_free_guidance=False, clean_caption=False)
        for guidance in (1.0, 4.0):
            # The empty prompt in both halves is no guidance: the last bits differ, as a batch of another shape is run.
            images = plain(
                image=found.latents, prompt_embeds=embeds.repeat(2, 1, 1), guidance_scale=guidance,
                negative_prompt_embeds=model.family.encode(model.pipeline, [""]).embeds.repeat(2, 1, 1),
                generator=[torch.Generator().manual_seed(row.seed) for row in rows], **arguments,
            ).images  # fmt: skip
            far = float(((images / 2 + 0.5).clamp(0, 1) - found.images).abs().max())
            if guidance == 1.0:
                assert (far == 0) == same
            assert (far < 1e-4) == same, (text, guidance, far)


def test_no_prompt_reaches_it(model: LoadedModel) -> None:
    """Equal pixels and seeds give equal bits, whatever was encoded and drawn before, and in whose company."""
    pixels = torch.rand(1, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1)).repeat(2, 1, 1, 1) * 2 - 1
    before = enlarged(model, pixels, [7, 7])
    assert torch.equal(before[0], before[1])
    drawn(model, Row(DONOR, PROMPT, 7), Row(PROMPT, DONOR, 7, every_site(model)))
    model.encoded.clear()
    assert torch.equal(enlarged(model, pixels, [7, 7]), before)
    assert not torch.equal(enlarged(model, pixels, [7, 8])[1], before[1])
    pixels[1] *= 0.9
    assert not torch.equal(enlarged(model, pixels, [7, 7])[1], before[1])


def test_equal_pictures_of_other_prompts_are_enlarged_alike(model: LoadedModel) -> None:
    """Through the whole engine: the donor prompt, and the prompt at whose sites and pooled text it was swapped."""
    row = Row(PROMPT, DONOR, 3, every_site(model, pooled="donor"))
    swapped, donor = drawn(model, row, batch_size=1), drawn(model, Row(DONOR, DONOR, 3), batch_size=1)
    assert torch.allclose(swapped.latents, donor.latents, atol=1e-5)
    assert torch.allclose(swapped.images, donor.images, atol=1e-4)
    assert float((swapped.images - drawn(model, Row(PROMPT, DONOR, 3), batch_size=1).images).abs().max()) > 1e-2


def test_an_identity_swap_changes_no_bit(model: LoadedModel) -> None:
    clean, swapped = drawn(model, Row(PROMPT, PROMPT, 3), Row(PROMPT, PROMPT, 3, every_site(model))).images
    assert torch.equal(clean, swapped)


def test_a_row_does_not_depend_on_its_company(model: LoadedModel) -> None:
    rows = [Row(PROMPT, DONOR, 0), Row(DONOR, PROMPT, 1, Intervention((2,))), Row(PROMPT, DONOR, 2, Intervention((1,)))]
    together = drawn(model, *rows).images
    alone = torch.cat([drawn(model, row).images for row in rows])
    assert torch.allclose(together, alone, atol=1e-5)


def test_one_text_encoder_serves_both_and_an_export_holds_the_first_stage_alone(
    model: LoadedModel, tmp_path: Path
) -> None:
    assert model.super_resolution is not None
    left = ("text_encoder", "tokenizer", "safety_checker", "feature_extractor", "watermarker")
    assert [getattr(model.super_resolution.pipeline, name) for name in left] == [None] * 5
    model.pipeline.save_pretrained(tmp_path)
    assert "IFPipeline" in (tmp_path / "model_index.json").read_text()
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_dir()) == [
        "scheduler", "text_encoder", "tokenizer", "unet"
    ]  # fmt: skip


def test_pictures_that_nobody_looks_at_are_not_enlarged(model: LoadedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """Attention is read from the first stage."""
    monkeypatch.setattr(model.super_resolution, "enlarge", lambda *_: pytest.fail("a picture was enlarged"))
    found = contributions(model, [Row(PROMPT, DONOR, 0)], SETTINGS, 2)
    assert found.shape == (1, len(model.sites))


def test_a_family_without_a_second_stage_takes_none(tiny_pipeline: Path, second: Path) -> None:
    with pytest.raises(ModelError, match=r"\(stable_diffusion\) has no second stage"):
        load_model("stable_diffusion", str(tiny_pipeline), None, "float32", "cpu", super_resolution=(str(second), None))
