"""SANA-Sprint: SANA distilled to one to four steps, whose guidance scale is a number that it reads.

There is no unconditional half. Prompts are read as SANA reads them.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, ClassVar

from loco_core.diffusion.facts import UNGUIDED, FamilyInfo, ModelInfo
from loco_core.diffusion.families import sana
from loco_core.diffusion.model import PromptEmbeds
from loco_core.diffusion.sites import block_names, largest_side

_TRANSFORMER = {
    "sample_size": 32, "num_layers": 20, "num_attention_heads": 70, "attention_head_dim": 32,
    "num_cross_attention_heads": 20, "cross_attention_head_dim": 112, "cross_attention_dim": 2240,
    "caption_channels": 2304, "in_channels": 32, "out_channels": 32, "patch_size": 1, "guidance_embeds": True,
    "qk_norm": "rms_norm_across_heads",
}  # fmt: skip
INFO = FamilyInfo(
    pipelines=("SanaSprintPipeline",),
    models={
        "sana-sprint": ModelInfo(
            4.0,
            "Efficient-Large-Model/Sana_Sprint_1.6B_1024px_diffusers",
            gigabytes=12,
            published=_TRANSFORMER,
            dtype="bfloat16",
        )
    },
    seconds_per_image=4.0,
    config_file="transformer/config.json",
    site_names=lambda config: block_names("transformer_blocks", config["num_layers"]),
    native_side=lambda config: 32 * largest_side(config),
    encoders=sana.INFO.encoders,
    text_encoders={"text_encoder": 0},
    passes=UNGUIDED,
    guidance_example="Sana_Sprint_1.6B 4.5",
    side_multiple=32,
    schedulers=("SCMScheduler",),
    reading=sana.INFO.reading,
    steps=2,
    guidance_scale=4.5,
)


class Family(sana.Family):
    """Loads and prompts a ``SanaSprintPipeline``."""

    pipeline_class = "SanaSprintPipeline"
    call: ClassVar[Mapping[str, Any]] = MappingProxyType({"clean_caption": False, "use_resolution_binning": False})
    encoded: ClassVar[Mapping[str, Any]] = MappingProxyType({})

    def arguments(
        self,
        pipeline: Any,
        texts: PromptEmbeds,
        pooled: PromptEmbeds,
        negative: tuple[PromptEmbeds, PromptEmbeds] | None,
    ) -> dict[str, Any]:
        """Returns those of SANA, and no time between two steps where there are not two.

        How many there are says the scheduler, which has been told before.
        """
        between = {} if pipeline.scheduler.num_inference_steps == 2 else {"intermediate_timesteps": None}
        return super().arguments(pipeline, texts, pooled, negative) | between
