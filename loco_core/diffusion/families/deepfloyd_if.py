"""DeepFloyd IF: a UNet on pixels that reads T5; text K and V stand beside those of the image.

Stage I draws 64 pixels; it is swept and edited. Stage II, where a sweep asks for it, enlarges them to 256.

The text passes a GroupNorm of every block before its projections, which have biases. The same text is pooled inside the
UNet and added to the time embedding.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from loco_core.diffusion.diffusers_family import UNetFamily
from loco_core.diffusion.facts import FamilyInfo, ModelInfo
from loco_core.diffusion.model import LoadedModel, PromptEmbeds, load_pipeline
from loco_core.diffusion.sites import largest_side, unet_site_names
from loco_core.diffusion.tokens import Reading, t5_tokens

if TYPE_CHECKING:
    import torch

_UNET = {
    "sample_size": 64, "in_channels": 3, "out_channels": 6, "layers_per_block": 3,
    "block_out_channels": (704, 1408, 2112, 2816),
    "down_block_types": ("ResnetDownsampleBlock2D",) + ("SimpleCrossAttnDownBlock2D",) * 3,
    "mid_block_type": "UNetMidBlock2DSimpleCrossAttn",
    "up_block_types": ("SimpleCrossAttnUpBlock2D",) * 3 + ("ResnetUpsampleBlock2D",),
    "cross_attention_dim": 2816, "cross_attention_norm": "group_norm", "attention_head_dim": 64,
    "encoder_hid_dim": 4096, "encoder_hid_dim_type": "text_proj", "addition_embed_type": "text",
    "addition_embed_type_num_heads": 64, "act_fn": "gelu", "time_embedding_act_fn": "gelu",
    "resnet_time_scale_shift": "scale_shift",
}  # fmt: skip
INFO = FamilyInfo(
    pipelines=("IFPipeline",),
    models={
        "deepfloyd-if": ModelInfo(
            20.0,
            "DeepFloyd/IF-I-XL-v1.0",
            gigabytes=19,
            published=_UNET,
            super_resolution="DeepFloyd/IF-II-L-v1.0",
        )
    },
    steps=100,
    guidance_scale=7.0,
    seconds_per_image=20.0,
    config_file="unet/config.json",
    site_names=unet_site_names,
    native_side=largest_side,
    encoders="T5-XXL",
    text_encoders={"text_encoder": 0},
    pooled="attention pooling of the whole text inside the UNet, added to the time embedding",
    schedulers=("DDPMScheduler",),
    super_resolution_class="IFSuperResolutionPipeline",
    # Counted, not measured: a step of stage II takes 3.1 TFLOP, one of stage I, guided, 5.8.
    super_resolution_cost=1.5,
    reading=lambda _: Reading("tokenizer", 77, lower=True, encoder="text_encoder"),
)


class Family(UNetFamily):
    """Loads and prompts an ``IFPipeline``, without its safety checker and watermark, which would pass for effects."""

    pipeline_class = "IFPipeline"
    left_out = MappingProxyType(
        {"safety_checker": None, "watermarker": None, "requires_safety_checker": False, "feature_extractor": None}
    )
    text_width = "encoder_hid_dim"
    call = MappingProxyType({"clean_caption": False})

    def encode(self, pipeline: Any, prompts: list[str]) -> PromptEmbeds:
        """Encodes prompts with T5; cross-attention sees padding too, as in the published model."""
        import torch

        with torch.no_grad():
            embeds, _ = pipeline.encode_prompt(
                prompts, do_classifier_free_guidance=False, device=self.where(pipeline)["device"], clean_caption=False
            )
        texts = pipeline._text_preprocessing(prompts, clean_caption=False)
        ids, words = t5_tokens(pipeline.tokenizer, texts, embeds.shape[1])
        return PromptEmbeds(embeds, ids, words.to(embeds.device))

    def prompt_arguments(self, pipeline: Any, texts: PromptEmbeds, pooled: PromptEmbeds) -> dict[str, Any]:
        """Returns the embeddings that are pooled: what cross-attention reads is routed, whatever is given here."""
        return super().prompt_arguments(pipeline, pooled, pooled)

    def images(self, output: torch.Tensor) -> torch.Tensor:
        """Brings pixels in [-1, 1], which this pipeline's tensors are, to [0, 1]."""
        return (output / 2 + 0.5).clamp(0, 1)


class SuperResolution:
    """Stage II: an ``IFSuperResolutionPipeline`` without a text encoder; that of stage I encodes for both.

    It reads the empty prompt for every row, clean and swapped alike: by the row's prompt it would draw back into a
    picture what stage I was made to leave out. Both halves of guidance would read the same, so that only one of them is
    computed. The noise that stage I's pixels get first is the pipeline's default (level 250).

    Attributes:
        left_out: components and flags that it is loaded with.
        pipeline: the diffusers pipeline.
    """

    left_out = MappingProxyType({**Family.left_out, "text_encoder": None, "tokenizer": None})

    def __init__(self, path: str, revision: str | None, dtype: str, device_map: str | None) -> None:
        """Loads the pipeline, without its safety checker and watermark."""
        self.pipeline = load_pipeline(INFO.super_resolution_class, path, revision, dtype, device_map, **self.left_out)

    def factor(self, model: LoadedModel) -> int:
        """Returns how many times larger its native side is than that of stage I."""
        first, second = (largest_side(stage.unet.config) for stage in (model.pipeline, self.pipeline))
        return second // first

    def enlarge(self, model: LoadedModel, images: torch.Tensor, seeds: Sequence[int], steps: int) -> torch.Tensor:
        """Enlarges pixels in [-1, 1], as stage I's native side is to stage II's."""
        import torch

        # Alone, not beside the batch's prompts, beside which its last bits would differ from batch to batch.
        empty = model.encode([""]).take([0] * len(images))
        height, width = (side * self.factor(model) for side in images.shape[2:])
        enlarged: torch.Tensor = self.pipeline(
            image=images, prompt_embeds=empty.embeds, height=height, width=width, num_inference_steps=steps,
            guidance_scale=1.0, generator=[torch.Generator("cpu").manual_seed(seed) for seed in seeds],
            output_type="pt",
        ).images  # fmt: skip
        return enlarged
