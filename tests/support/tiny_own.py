"""A pipeline of nobody's class: a PixArt transformer that reads CLIP, guidance in two calls, for tests."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, DDIMScheduler, DiffusionPipeline, PixArtTransformer2DModel
from diffusers.utils import BaseOutput
from transformers import CLIPTextModel, CLIPTokenizer

from tests.support.tiny_models import CLIP_L, LATENT_SIDE, clip_encoder, clip_tokenizer, save, vae


@dataclass
class Drawn(BaseOutput):
    """What a call gives."""

    images: Any


class OwnPipeline(DiffusionPipeline):
    """Draws a text as its authors like it: the unconditional half in a call of its own, behind or in front."""

    def __init__(
        self, tokenizer: CLIPTokenizer, text_encoder: CLIPTextModel, transformer: PixArtTransformer2DModel,
        scheduler: DDIMScheduler, vae: AutoencoderKL, unconditional_first: bool = False, longest: bool = False,
    ) -> None:  # fmt: skip
        super().__init__()
        self.register_modules(
            tokenizer=tokenizer, text_encoder=text_encoder, transformer=transformer, scheduler=scheduler, vae=vae
        )
        self.register_to_config(unconditional_first=unconditional_first, longest=longest)

    def read(self, texts: list[str]) -> torch.Tensor:
        padding = "longest" if self.config.longest else "max_length"
        ids = self.tokenizer(texts, padding=padding, truncation=True, max_length=16, return_tensors="pt").input_ids
        return self.text_encoder(ids.to(self.device)).last_hidden_state

    @torch.no_grad()
    def __call__(
        self, prompt: list[str], num_inference_steps: int = 10, guidance_scale: float = 3.0, generator: Any = None,
        output_type: str = "pil", callback_on_step_end: Callable[..., Any] | None = None,
    ) -> Drawn:  # fmt: skip
        texts, empty = self.read(prompt), self.read([""]).expand(len(prompt), -1, -1)
        halves = [texts, empty] if guidance_scale > 1 else [texts]
        if self.config.unconditional_first:
            halves = halves[::-1]
        latents = torch.cat(
            [torch.randn(1, 4, LATENT_SIDE, LATENT_SIDE, generator=each) for each in generator]
        ).to(self.device, self.transformer.dtype)  # fmt: skip
        self.scheduler.set_timesteps(num_inference_steps)
        for number, time in enumerate(self.scheduler.timesteps):
            sizes = {"resolution": None, "aspect_ratio": None}
            made = [
                self.transformer(
                    latents, encoder_hidden_states=half, timestep=time.expand(len(prompt)), added_cond_kwargs=sizes
                ).sample[:, :4]
                for half in halves
            ]
            if self.config.unconditional_first:
                made = made[::-1]
            noise = made[0] if len(made) == 1 else made[1] + guidance_scale * (made[0] - made[1])
            latents = self.scheduler.step(noise, time, latents).prev_sample
            if callback_on_step_end is not None:
                latents = callback_on_step_end(self, number, time, {"latents": latents})["latents"]
        if output_type == "latent":
            return Drawn(latents)
        images = (self.vae.decode(latents / self.vae.config.scaling_factor).sample / 2 + 0.5).clamp(0, 1)
        return Drawn(images if output_type == "pt" else images.permute(0, 2, 3, 1).float().cpu().numpy())


def own(**options: bool) -> OwnPipeline:
    """Builds it, of three blocks."""
    tokenizer = clip_tokenizer(16)
    transformer = PixArtTransformer2DModel(
        sample_size=LATENT_SIDE, num_layers=3, num_attention_heads=3, attention_head_dim=16, in_channels=4,
        out_channels=8, cross_attention_dim=48, caption_channels=CLIP_L, use_additional_conditions=False,
    )  # fmt: skip
    return OwnPipeline(
        tokenizer, clip_encoder(CLIPTextModel, tokenizer, CLIP_L, CLIP_L), transformer, DDIMScheduler(), vae(4),
        **options,
    )  # fmt: skip


def build_own(folder: Path, **options: bool) -> Path:
    """Saves it in a folder, and returns the folder."""
    save(partial(own, **options), folder)
    return folder
