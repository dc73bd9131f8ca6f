"""Sites of the real configurations, on the meta device: number, order and addresses."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torch.fx.experimental._config as fx_config
from diffusers import (
    AuraFlowTransformer2DModel,
    ChromaTransformer2DModel,
    CogView3PlusTransformer2DModel,
    CogView4Transformer2DModel,
    Flux2Transformer2DModel,
    FluxTransformer2DModel,
    HunyuanDiT2DModel,
    HunyuanImageTransformer2DModel,
    Kandinsky3UNet,
    Lumina2Transformer2DModel,
    ModelMixin,
    OvisImageTransformer2DModel,
    PixArtTransformer2DModel,
    QwenImageTransformer2DModel,
    SanaTransformer2DModel,
    SD3Transformer2DModel,
    UNet2DConditionModel,
    WanTransformer3DModel,
    ZImageTransformer2DModel,
)

from loco_core import plugins
from loco_core.diffusion.facts import families, find_model
from loco_core.diffusion.model import REMEMBERED, LoadedModel, load_model, pass_of
from loco_core.diffusion.sites import record_sites, unet_site_names
from loco_core.diffusion.tokens import clip_tokens, t5_tokens
from loco_core.editing.deltas import Provenance, WeightDelta, applied
from loco_core.errors import ModelError
from loco_core.toyworld.training.transformer import make_word_tokenizer

# Sites of the published models, and where some of them are: 8-9 of SD 1.5 hold styles in the paper, 45 those of SDXL.
PUBLISHED: dict[str, tuple[type[ModelMixin], int, dict[int, str]]] = {
    "sd15": (UNet2DConditionModel, 16, {6: "mid_block.attentions.0", 8: "up_blocks.1.attentions.1"}),
    "sd21": (UNet2DConditionModel, 16, {9: "up_blocks.1.attentions.2"}),
    "sdxl": (
        UNet2DConditionModel, 70,
        {24: "mid_block.attentions.0.transformer_blocks.0", 45: "up_blocks.0.attentions.1.transformer_blocks.1"},
    ),
    "lcm": (UNet2DConditionModel, 16, {8: "up_blocks.1.attentions.1"}),
    # Counted from ComfyUI's table of depths, too: 2 + 2 + 4 + 4 going down, none in the middle, 18 + 4 going up.
    "ssd-1b": (
        UNet2DConditionModel, 34,
        {12: "up_blocks.0.attentions.0.transformer_blocks.0", 30: "up_blocks.1.attentions.0.transformer_blocks.0"},
    ),
    "segmind-vega": (UNet2DConditionModel, 15, {0: "down_blocks.1.attentions.0", 14: "up_blocks.1.attentions.2"}),
    "sana-sprint": (SanaTransformer2DModel, 20, {19: "transformer_blocks.19"}),
    "kolors": (UNet2DConditionModel, 70, {45: "up_blocks.0.attentions.1.transformer_blocks.1"}),
    "hunyuan-dit": (HunyuanDiT2DModel, 40, {2: "blocks.2", 39: "blocks.39"}),
    "kandinsky3": (
        Kandinsky3UNet, 18,
        {0: "down_blocks.1.attentions.1", 8: "down_blocks.3.attentions.3", 9: "up_blocks.0.attentions.1"},
    ),
    "wan21-1.3b": (WanTransformer3DModel, 30, {2: "blocks.2", 29: "blocks.29"}),
    "wan21-14b": (WanTransformer3DModel, 40, {39: "blocks.39"}),
    "wan22-5b": (WanTransformer3DModel, 30, {29: "blocks.29"}),
    "deepfloyd-if": (UNet2DConditionModel, 22, {9: "mid_block.attentions.0", 17: "up_blocks.1.attentions.3"}),
    "pixart": (PixArtTransformer2DModel, 28, {2: "transformer_blocks.2", 10: "transformer_blocks.10"}),
    "sana": (SanaTransformer2DModel, 20, {19: "transformer_blocks.19"}),
    "sd3": (SD3Transformer2DModel, 24, {23: "transformer_blocks.23"}),
    "sd35-large": (SD3Transformer2DModel, 38, {37: "transformer_blocks.37"}),
    "lumina2": (Lumina2Transformer2DModel, 26, {0: "layers.0", 25: "layers.25"}),
    "z-image": (ZImageTransformer2DModel, 30, {0: "layers.0", 29: "layers.29"}),
    "z-image-turbo": (ZImageTransformer2DModel, 30, {10: "layers.10"}),
    "cogview3-plus": (CogView3PlusTransformer2DModel, 30, {10: "transformer_blocks.10"}),
    "cogview4": (CogView4Transformer2DModel, 28, {10: "transformer_blocks.10", 27: "transformer_blocks.27"}),
    "flux": (FluxTransformer2DModel, 57, {18: "transformer_blocks.18", 19: "single_transformer_blocks.0"}),
    "flux-schnell": (FluxTransformer2DModel, 57, {19: "single_transformer_blocks.0"}),
    "flux-kontext": (FluxTransformer2DModel, 57, {19: "single_transformer_blocks.0"}),
    "chroma": (ChromaTransformer2DModel, 57, {18: "transformer_blocks.18", 19: "single_transformer_blocks.0"}),
    "hunyuan-image": (HunyuanImageTransformer2DModel, 60, {20: "single_transformer_blocks.0"}),
    "ovis-image": (OvisImageTransformer2DModel, 33, {5: "transformer_blocks.5", 6: "single_transformer_blocks.0"}),
    "qwen-image": (QwenImageTransformer2DModel, 60, {59: "transformer_blocks.59"}),
    "flux2-dev": (Flux2Transformer2DModel, 56, {7: "transformer_blocks.7", 8: "single_transformer_blocks.0"}),
    "aura-flow": (
        AuraFlowTransformer2DModel, 36, {3: "joint_transformer_blocks.3", 4: "single_transformer_blocks.0"},
    ),
    "flux2-klein-4b": (Flux2Transformer2DModel, 25, {4: "transformer_blocks.4", 24: "single_transformer_blocks.19"}),
    "flux2-klein-9b": (Flux2Transformer2DModel, 32, {7: "transformer_blocks.7", 31: "single_transformer_blocks.23"}),
}  # fmt: skip


@pytest.mark.parametrize("name", PUBLISHED)
def test_sites_of_the_full_size_models(name: str) -> None:
    """The published configurations on the meta device: number, order and addresses, shapes of what is edited."""
    denoiser_class, count, known = PUBLISHED[name]
    key, info = find_model(name)
    family, facts = plugins.load("families", key).Family(), families()[key]
    # HunyuanImage sorts its text by a mask, whose values nothing knows there.
    whatever = fx_config.patch(meta_nonzero_assume_all_nonzero=True)
    with torch.device("meta"), whatever:
        denoiser = denoiser_class(**info.published)
        pipeline = SimpleNamespace(unet=denoiser, transformer=denoiser)
        sites = record_sites(denoiser, partial(pass_of, family, pipeline), facts.refiners)
    assert [site.name for site in sites] == list(facts.site_names(dict(info.published)))
    assert len(sites) == count
    assert {index: sites[index].name for index in known} == known
    for site in sites:
        projections = [denoiser.get_submodule(path) for path in (site.key_path, site.value_path)]
        columns = (site.key_columns, site.value_columns)
        widths = [at[1] - at[0] if at else p.out_features for at, p in zip(columns, projections, strict=True)]
        assert widths == [site.width, site.width]
        assert len({p.in_features for p in projections}) == 1
        assert site.text_only != bool(facts.shared and site.name.startswith(facts.shared))


def test_configurations_without_a_middle_block_have_one() -> None:
    """Those of Stable Diffusion 1 and 2 were published before the key was."""
    config = dict(find_model("sd15")[1].published)
    assert "mid_block_type" not in config
    assert unet_site_names({**config, "mid_block_type": None}) == tuple(
        name for name in unet_site_names(config) if not name.startswith("mid_block")
    )


def test_prompts_that_a_model_would_cut_are_refused(tiny_model: LoadedModel) -> None:
    text = "a red circle " * 9
    with pytest.raises(ModelError, match=r'"a red circle .*\.\.\." has 29 tokens, of which the model reads 16'):
        clip_tokens(tiny_model.pipeline.tokenizer, [text])
    with pytest.raises(ModelError, match="has 28 tokens, of which the model reads 10"):
        t5_tokens(make_word_tokenizer(), [text], 10)


def test_fused_projections_and_loaded_loras_are_refused(tiny_pipeline: Path) -> None:
    model = load_model("stable_diffusion", str(tiny_pipeline), None, "float32", "cpu")
    again = partial(record_sites, model.pipeline.unet, partial(pass_of, model.family, model.pipeline))
    attention = model.pipeline.unet.get_submodule(model.sites[0].attention_path)
    attention.to_v.base_layer = attention.to_k
    with pytest.raises(ModelError, match="to_v carries a LoRA; fuse it"):
        again()
    del attention.to_v.base_layer
    model.pipeline.unet.fuse_qkv_projections()
    with pytest.raises(ModelError, match=r"fused projections.*unfuse_qkv_projections"):
        again()


def test_recorded_order_equals_the_order_from_the_configuration(tiny_model: LoadedModel) -> None:
    names = unet_site_names(dict(tiny_model.pipeline.unet.config))
    assert [site.name for site in tiny_model.sites] == list(names)


def test_a_damaged_pipeline_is_one_clean_line(tiny_pipeline: Path, tmp_path: Path) -> None:
    import shutil

    broken = tmp_path / "broken"
    shutil.copytree(tiny_pipeline, broken)
    weights = broken / "unet" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(ModelError, match="is damaged: not a whole safetensors file") as error:
        load_model("stable_diffusion", str(broken), None, "float32", "cpu")
    assert "\n" not in str(error.value)


def test_prompts_are_encoded_once_and_never_with_other_weights(
    tiny_model: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    encode, asked = tiny_model.family.encode, list[list[str]]()
    monkeypatch.setattr(tiny_model.family, "encode", lambda p, texts: asked.append(texts) or encode(p, texts))
    model = replace(tiny_model, encoded={})
    first = model.encode(["", "a red circle"])
    assert torch.equal(model.encode(["", "a red circle"]).embeds, first.embeds)
    assert asked == [["", "a red circle"]]
    delta = WeightDelta(Provenance("tiny", "w", "float32", (), (), "loco_edit", "{}", "by hand"), ())
    with applied(model, delta, "w"):
        model.encode(["", "a red circle"])
    model.encode(["", "a red circle"])
    assert len(asked) == 3
    for number in range(REMEMBERED + 1):
        model.encode([f"a red circle {number}"])
    assert len(model.encoded) == REMEMBERED
