"""A family of a class that no bundled one names: Stable Diffusion with perturbed-attention guidance, switched off."""

from __future__ import annotations

from dataclasses import replace
from types import MappingProxyType

from loco_core.diffusion.families import stable_diffusion

INFO = replace(
    stable_diffusion.INFO, pipelines=("StableDiffusionPAGPipeline",), models={},
    encoders="CLIP ViT-L",
)  # fmt: skip


class Family(stable_diffusion.Family):
    """Loads and prompts a ``StableDiffusionPAGPipeline``."""

    pipeline_class = "StableDiffusionPAGPipeline"
    call = MappingProxyType({"pag_scale": 0.0})
