"""A pipeline as its authors call it, with sentences and unhooked: what the engine is compared with."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from loco_core.types import Generation

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Plain:
    """What a pipeline makes of sentences.

    Attributes:
        latents: ``(n, ...)`` final latents on the CPU, float32.
        images: what the pipeline returns, as its tensors.
    """

    latents: torch.Tensor
    images: torch.Tensor


def draw_plainly(
    pipeline: Any,
    texts: Sequence[str],
    seeds: Sequence[int],
    settings: Generation,
    scale_argument: str = "guidance_scale",
    arguments: Mapping[str, Any] | None = None,
) -> Plain:
    """Calls a pipeline with sentences.

    Args:
        pipeline: a diffusers pipeline.
        texts: one sentence per picture.
        seeds: seed of each picture's noise, which is drawn on the CPU.
        settings: steps, guidance scale and sides; its scheduler is that of the pipeline.
        scale_argument: name of the argument that takes the guidance scale; empty where a part of the pipeline has it.
        arguments: further arguments of the call.
    """
    import torch

    last: list[torch.Tensor] = []

    def keep(*given: Any) -> Any:
        # Old pipelines hand over step, time and latents, new ones themselves, step, time and a dict of tensors.
        last[:] = [given[3]["latents"] if len(given) == 4 else given[2]]
        return given[3] if len(given) == 4 else None

    new = "callback_on_step_end" in inspect.signature(pipeline.__call__).parameters
    with torch.no_grad():
        images = pipeline(
            prompt=list(texts),
            num_inference_steps=settings.steps,
            generator=[torch.Generator("cpu").manual_seed(seed) for seed in seeds],
            output_type="pt",
            **({scale_argument: settings.guidance_scale} if scale_argument else {}),
            **{name: side for name in ("height", "width") if (side := getattr(settings, name)) is not None},
            **({"callback_on_step_end": keep} if new else {"callback": keep, "callback_steps": 1}),
            **(arguments or {}),
        )[0]
    return Plain(last[0].float().cpu(), images)
