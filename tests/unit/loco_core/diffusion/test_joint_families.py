"""Texts of families in which text and image attend to each other, where they are not as in any other."""

from __future__ import annotations

import json
from pathlib import Path

import diffusers
import pytest
import torch

from loco_core.diffusion.checks import load_tokenizer
from loco_core.diffusion.generate import generate
from loco_core.diffusion.model import LoadedModel, load_model
from loco_core.diffusion.tokens import PADDED_TO
from loco_core.editing.base import Concept
from loco_core.editing.token_pairs import token_pairs
from loco_core.errors import ModelError, SpecError
from loco_core.types import Generation, PromptRecord, Row
from orchestrator.resolve.lookup import resolve_model
from orchestrator.resolve.texts import prompt_reader
from orchestrator.spec import ModelSpec
from tests.support.tiny_joint import build
from tests.support.tiny_models import SIDE

PROMPT, DONOR = "a red circle in the style of lumio", "a blue star"


@pytest.fixture(scope="module")
def qwen(tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    folder = build("qwen_image", tmp_path_factory.mktemp("models") / "qwen_image")
    return load_model("qwen_image", str(folder), None, "float32", "cpu")


@pytest.mark.parametrize(("text", "sentence"), [(PROMPT, PROMPT), (DONOR, DONOR), ("", " ")])
def test_qwen_image_reads_a_sentence_as_its_pipeline_does(qwen: LoadedModel, text: str, sentence: str) -> None:
    among = qwen.family.encode(qwen.pipeline, ["a yellow moon", text, PROMPT]).take([1])
    alone, mask = qwen.pipeline.encode_prompt(sentence)
    count = alone.shape[1]
    assert mask is None
    assert among.mask is not None
    assert torch.allclose(among.embeds[:, :count], alone, atol=1e-5)
    assert not among.embeds[:, count:].any()
    assert among.mask.sum() == among.mask[:, :count].sum() == count
    # The template closes the turn and opens another behind the last word, in five tokens.
    assert among.words.sum() == among.words[:, : count - 5].sum() == count - 5


def test_a_long_prompt_is_fitted_beside_a_short_donor(qwen: LoadedModel) -> None:
    long = "a red circle " * (PADDED_TO // 3) + "in the style of lumio"
    concept = Concept("style/x", (PromptRecord(long, DONOR, "", "", ""),))
    (pairs,) = token_pairs(qwen, concept, "all", (0,))
    words = len(long.split())
    assert len(pairs.keys) == len(pairs.donors) == words + 5


def test_kontext_draws_a_text_as_its_own_pipeline_does(tmp_path: Path) -> None:
    folder = build("flux_kontext", tmp_path / "kontext")
    own = diffusers.DiffusionPipeline.from_pretrained(folder, use_safetensors=True)
    assert type(own) is diffusers.FluxKontextPipeline
    own.set_progress_bar_config(disable=True)
    expected = own(
        prompt=PROMPT, height=SIDE, width=SIDE, max_area=SIDE**2, num_inference_steps=3, guidance_scale=3.5,
        generator=torch.Generator().manual_seed(5), output_type="pt",
    ).images  # fmt: skip
    model = load_model("flux", str(folder), None, "float32", "cpu")
    (found,) = generate(model, [Row(PROMPT, DONOR, 5)], Generation(3, 3.5, SIDE, SIDE), 2)
    assert torch.allclose(found.images, expected, atol=1e-5)


def test_guidance_of_schnell_changes_nothing(tmp_path: Path) -> None:
    """Its transformer reads no scale, and nothing runs an unconditional half."""
    model = load_model("flux", str(build("flux_schnell", tmp_path / "schnell")), None, "float32", "cpu")
    none, much = (
        next(generate(model, [Row(PROMPT, DONOR, 5)], Generation(3, scale, SIDE, SIDE), 2)).latents
        for scale in (0.0, 7.0)
    )
    assert torch.equal(none, much)


@pytest.fixture(scope="module")
def hunyuan(tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    folder = build("hunyuan_image", tmp_path_factory.mktemp("models") / "hunyuan_image")
    return load_model("hunyuan_image", str(folder), None, "float32", "cpu")


def test_hunyuan_image_reads_a_sentence_as_its_pipeline_does(hunyuan: LoadedModel) -> None:
    among = hunyuan.family.encode(hunyuan.pipeline, ["a yellow moon", PROMPT, DONOR]).take([1])
    alone, mask, letters, _ = hunyuan.pipeline.encode_prompt(PROMPT)
    count = int(mask.sum())
    assert not letters.any()
    assert among.mask is not None
    assert torch.allclose(among.embeds[:, :count], alone[:, :count], atol=1e-5)
    assert among.mask.sum() == among.mask[:, :count].sum() == count
    # The template closes the turn behind the last word.
    assert among.words.sum() == among.words[:, : count - 1].sum() == count - 1


@pytest.mark.parametrize("scale", [1.0, 6.0])
def test_the_guider_of_hunyuan_image_has_the_scale_that_is_asked_for(hunyuan: LoadedModel, scale: float) -> None:
    pipeline = diffusers.DiffusionPipeline.from_pretrained(hunyuan.pipeline.name_or_path, use_safetensors=True)
    pipeline.set_progress_bar_config(disable=True)
    assert pipeline.guider.guidance_scale == 3.0
    pipeline.guider.guidance_scale = scale
    expected = pipeline(
        PROMPT, height=SIDE, width=SIDE, num_inference_steps=3, generator=torch.Generator().manual_seed(5),
        output_type="pt",
    ).images  # fmt: skip
    (found,) = generate(hunyuan, [Row(PROMPT, DONOR, 5)], Generation(3, scale, SIDE, SIDE), 2)
    assert torch.allclose(found.images, expected, atol=1e-4)


def test_words_in_quotation_marks_are_refused_by_plan_and_worker(hunyuan: LoadedModel) -> None:
    said = "has words in quotation marks, which this model reads and guides apart; expected none"
    with pytest.raises(ModelError, match=said):
        hunyuan.family.encode(hunyuan.pipeline, ['a sign that says "lumio"'])
    mine = ModelSpec(id="mine", path=hunyuan.pipeline.name_or_path)
    found = prompt_reader(resolve_model(mine), ("models", 0))
    assert found is not None
    with pytest.raises(SpecError, match=f"mine: the prompt .* {said}"):
        load_tokenizer(found).ids('a sign that says "lumio"', "the prompt")


def test_hunyuan_images_that_are_called_otherwise_are_refused(tmp_path: Path) -> None:
    folder = build("hunyuan_image", tmp_path / "hunyuan")
    file = folder / "guider" / "guider_config.json"
    content = file.read_text()
    file.write_text(json.dumps({**json.loads(content), "stop": 0.5}))
    with pytest.raises(ModelError, match=r"expected an AdaptiveProjectedMixGuidance from start: 0\.0"):
        load_model("hunyuan_image", str(folder), None, "float32", "cpu")
    file.write_text(content)
    kind = diffusers.HunyuanImageTransformer2DModel
    distilled = kind.from_config({**kind.load_config(folder / "transformer"), "use_meanflow": True})
    distilled.save_pretrained(folder / "transformer")
    with pytest.raises(ModelError, match="is a distilled HunyuanImage"):
        load_model("hunyuan_image", str(folder), None, "float32", "cpu")
