"""Kandinsky 3: a UNet with cross-attention over T5, padding masked, and a text that is pooled and added to the time.

The pipeline cuts the texts of a batch behind the longest of them and one position of padding, and the query that pools
a text is the mean of what is left: there, a picture depends on the others of its batch. Here every row's mean is that
of its own text and one position of padding, as where the pipeline draws the sentence alone. Without a negative prompt
the unconditional half reads zeros, all of them masked, so that it looks at all positions alike.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from loco_core.diffusion.diffusers_family import DiffusersFamily
from loco_core.diffusion.facts import FamilyInfo, ModelInfo
from loco_core.diffusion.model import PromptEmbeds
from loco_core.diffusion.sites import checked
from loco_core.diffusion.tokens import Reading, t5_tokens

if TYPE_CHECKING:
    import torch

LENGTH = 128
POOLING = "add_time_condition"
_CROSS = (False, True, True, True)
"""Which levels have cross-attention, from above; no configuration says so."""
_UNET = {
    "in_channels": 4, "time_embedding_dim": 1536, "groups": 32, "attention_head_dim": 64, "layers_per_block": 3,
    "block_out_channels": (384, 768, 1536, 3072), "cross_attention_dim": 4096, "encoder_hid_dim": 4096,
}  # fmt: skip


def _site_names(config: dict[str, Any]) -> tuple[str, ...]:
    """Returns the addresses of the sites: the first attention of a level is of the image to itself."""
    levels, layers = len(config["block_out_channels"]), checked(config["layers_per_block"], "layers_per_block")
    return tuple(
        f"{side}.{level}.attentions.{layer}"
        for side, crosses in (("down_blocks", _CROSS), ("up_blocks", _CROSS[::-1]))
        for level, cross in enumerate(crosses[:levels])
        for layer in range(1, layers + 1)
        if cross
    )


INFO = FamilyInfo(
    pipelines=("Kandinsky3Pipeline",),
    models={
        # Memory is that of sdxl, and what the weights differ by at half precision.
        "kandinsky3": ModelInfo(20.0, "kandinsky-community/kandinsky-3", gigabytes=29, published=_UNET)
    },
    steps=25,
    guidance_scale=3.0,
    seconds_per_image=20.0,
    config_file="unet/config.json",
    site_names=_site_names,
    native_side=lambda _: 1024,
    encoders="the encoder of Flan-UL2 (a T5), through a projection and a norm shared by all sites",
    text_encoders={"text_encoder": 0},
    pooled="attention pooling of the text inside the UNet, added to the time embedding",
    refiners=f"{POOLING}.",
    side_multiple=64,
    # Its pipeline scales no input of the denoiser, and gives noise to every step.
    schedulers=("DDPMScheduler", "DDIMScheduler", "DPMSolverMultistepScheduler"),
    reading=lambda _: Reading("tokenizer", LENGTH, encoder="text_encoder"),
)


class Family(DiffusersFamily):
    """Loads and prompts a ``Kandinsky3Pipeline``."""

    pipeline_class = "Kandinsky3Pipeline"
    part = "unet"
    text_width = "encoder_hid_dim"
    masked = True

    def encode(self, pipeline: Any, prompts: list[str]) -> PromptEmbeds:
        """Encodes prompts with T5; the empty one as zeros."""
        import torch

        with torch.no_grad():
            embeds, _, mask, _ = pipeline.encode_prompt(
                prompts, do_classifier_free_guidance=False, device=self.where(pipeline)["device"]
            )
        said = torch.tensor([bool(text) for text in prompts], device=embeds.device)
        ids, words = t5_tokens(pipeline.tokenizer, prompts, LENGTH)
        return PromptEmbeds(embeds * said[:, None, None], ids, words.to(embeds.device), mask=mask * said[:, None])

    def prompt_arguments(self, pipeline: Any, texts: PromptEmbeds, pooled: PromptEmbeds) -> dict[str, Any]:
        """Returns the texts that are pooled: what cross-attention reads is routed, whatever is given here."""
        return {"prompt_embeds": pooled.embeds, "attention_mask": pooled.mask}

    @contextmanager
    def placing(self, pipeline: Any, own: Callable[[], torch.Tensor]) -> Iterator[None]:
        """Pools every row's text by itself, of what is given to the UNet: whose text it is, the call says."""
        import torch

        from loco_core.diffusion.engine import replaced_forwards

        pooling = getattr(pipeline.unet, POOLING)

        def pooled(time: torch.Tensor, texts: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
            # Numbers that are added to scores: 0 where there is no padding.
            count = (mask == 0).sum(-1, keepdim=True) + 1
            left = torch.arange(texts.shape[1], device=texts.device) < count
            weights = left / left.sum(-1, keepdim=True)
            mean = (weights @ texts.float()).to(texts)
            read: torch.Tensor = pooling.attention(mean, texts, mask.to(texts))
            return time + read.squeeze(1)

        with replaced_forwards() as replace:
            replace(pooling, pooled)
            yield

    def forward(self, pipeline: Any, prompts: PromptEmbeds) -> None:
        """Runs the UNet once, on the smallest side that three halvings leave whole."""
        import torch

        unet, n, where = pipeline.unet, len(prompts.embeds), self.where(pipeline)
        unet(
            torch.zeros(n, unet.config.in_channels, 8, 8, **where),
            torch.zeros(1, dtype=torch.long, device=where["device"]),
            prompts.embeds,
            encoder_attention_mask=prompts.mask,
        )

    def images(self, output: torch.Tensor) -> torch.Tensor:
        """Returns the pipeline's tensors, in [-1, 1], as images in [0, 1]."""
        return (output / 2 + 0.5).clamp(0, 1)
