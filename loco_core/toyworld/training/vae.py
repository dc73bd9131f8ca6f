"""The autoencoder: 32 x 32 RGB to 8 channels of 8 x 8."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL

from loco_core.toyworld.training.data import Pool
from loco_core.toyworld.training.loop import fit
from loco_core.toyworld.world import SIZE

BATCH = 64


def make_vae() -> AutoencoderKL:
    """Builds the untrained autoencoder."""
    torch.manual_seed(2)
    return AutoencoderKL(
        in_channels=3, out_channels=3, latent_channels=8, sample_size=SIZE, block_out_channels=(32, 48, 64),
        down_block_types=("DownEncoderBlock2D",) * 3, up_block_types=("UpDecoderBlock2D",) * 3, layers_per_block=1,
        norm_num_groups=16, mid_block_add_attention=False,
    )  # fmt: skip


def train_vae(pool: Pool, out: Path, work: Path, steps: int) -> None:
    """Trains the autoencoder (L1 + half MSE + a little KL) and saves it with the latents' scale in its config."""
    vae = make_vae().to(memory_format=torch.channels_last)

    def loss_at(rng: np.random.Generator) -> torch.Tensor:
        pictures, _ = pool.batch(rng, BATCH)
        pictures = pictures.contiguous(memory_format=torch.channels_last)
        posterior = vae.encode(pictures).latent_dist
        error = vae.decode(posterior.sample()).sample - pictures
        kl = 0.5 * (posterior.mean**2 + posterior.var - 1 - posterior.logvar).mean()
        loss: torch.Tensor = error.abs().mean() + 0.5 * (error**2).mean() + 3e-4 * kl
        return loss

    fit("vae", vae, loss_at, steps=steps, lr=2e-3, work=work, ema=0.99)
    latents = encode(vae, pool.pictures[:2048], scaled=False)
    vae.register_to_config(scaling_factor=round(1.0 / float(latents.std()), 4))
    vae.half().save_pretrained(out)


@torch.no_grad()
def encode(vae: AutoencoderKL, pictures: torch.Tensor, *, scaled: bool = True) -> torch.Tensor:
    """Returns the mean latents ``(n, 8, 8, 8)`` of uint8 pictures, on the device of the VAE."""
    parts = [
        vae.encode(
            batch.to(vae.device).float().div(127.5).sub(1).contiguous(memory_format=torch.channels_last)
        ).latent_dist.mean
        for batch in torch.split(pictures, 256)
    ]
    factor = float(vae.config["scaling_factor"]) if scaled else 1.0
    return torch.cat(parts) * factor


@torch.no_grad()
def round_trip(vae: AutoencoderKL, pictures: torch.Tensor) -> torch.Tensor:
    """Returns uint8 pictures as the decoder would draw them."""
    parts = [vae.decode(z).sample for z in torch.split(encode(vae, pictures, scaled=False), 256)]
    return (torch.cat(parts).clamp(-1, 1).add(1) * 127.5).round().to(torch.uint8).cpu()
