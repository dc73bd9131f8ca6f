"""The denoisers: the natural one, and planted ones that start from it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from diffusers.models.attention_processor import Attention, AttnProcessor2_0
from transformers import CLIPTextModel, CLIPTokenizer

from loco_core.toyworld.planting import PlantedModel, shown, site_captions
from loco_core.toyworld.training.clip import tokenize
from loco_core.toyworld.training.data import Pool, drop_words, wording
from loco_core.toyworld.training.loop import fit
from loco_core.toyworld.training.vae import encode
from loco_core.toyworld.world import Captions

BATCH, PLANTED_BATCH = 128, 64
EMPTY_SHARE = 0.1


def make_unet() -> UNet2DConditionModel:
    """Builds the untrained denoiser; like Stable Diffusion 1 it has 16 cross-attention sites."""
    torch.manual_seed(3)
    return UNet2DConditionModel(
        sample_size=8, in_channels=8, out_channels=8, block_out_channels=(48, 64, 96), layers_per_block=2,
        down_block_types=("CrossAttnDownBlock2D",) * 3, up_block_types=("CrossAttnUpBlock2D",) * 3,
        cross_attention_dim=128, attention_head_dim=4, norm_num_groups=16,
    )  # fmt: skip


def make_scheduler() -> DDIMScheduler:
    """Builds the noise schedule, that of Stable Diffusion 1."""
    return DDIMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False, set_alpha_to_one=False,
        steps_offset=1,
    )  # fmt: skip


class PerSite:
    """Lets every cross-attention site read a context of its own while a planted model is trained.

    Attributes:
        context: ``(sites, n, tokens, width)``, as it comes to K and V.
        bias: ``(sites, n, 1, tokens)``, added to the scores of attention; None where all positions are looked at.
    """

    def __init__(self, denoiser: torch.nn.Module, order: list[str]) -> None:
        self.context: torch.Tensor | None = None
        self.bias: torch.Tensor | None = None
        for index, name in enumerate(order):
            attention: Any = denoiser.get_submodule(name)
            attention.set_processor(_SiteProcessor(self, index))


class _SiteProcessor(AttnProcessor2_0):  # type: ignore[misc]
    def __init__(self, owner: PerSite, index: int) -> None:
        super().__init__()
        self.owner, self.index = owner, index

    def __call__(self, attn: Attention, hidden_states: torch.Tensor, *args: object, **kwargs: object) -> torch.Tensor:
        assert self.owner.context is not None
        bias = None if self.owner.bias is None else self.owner.bias[self.index]
        return super().__call__(attn, hidden_states, self.owner.context[self.index], bias)  # type: ignore[no-any-return]


def execution_order(unet: UNet2DConditionModel) -> list[str]:
    """Returns the cross-attention modules' names in the order in which a forward pass runs them."""
    order: list[str] = []
    handles = [
        module.register_forward_pre_hook(lambda *_, name=name: order.append(name))
        for name, module in unet.named_modules()
        if isinstance(module, Attention) and module.is_cross_attention
    ]
    with torch.no_grad():
        unet(torch.zeros(1, 8, 8, 8), 1, torch.zeros(1, 4, 128))
    for handle in handles:
        handle.remove()
    return order


@torch.no_grad()
def caption_table(clip: Path, captions: Captions) -> torch.Tensor:
    """Returns the text encoder's last hidden states of every caption, ``(captions, 16, 128)``."""
    encoder = CLIPTextModel.from_pretrained(clip, dtype=torch.float32).eval()
    ids = tokenize(CLIPTokenizer.from_pretrained(clip), captions.texts)
    return torch.cat([encoder(part).last_hidden_state for part in torch.split(ids, 512)])


def train_denoiser(
    models: Path,
    pool: Pool,
    captions: Captions,
    out: Path,
    work: Path,
    rounds: tuple[int, ...],
    plants: PlantedModel | None = None,
) -> None:
    """Trains a denoiser on cached latents and text embeddings, and saves it as a Stable Diffusion pipeline.

    Args:
        models: folder with the trained ``clip``, ``vae`` and, for a planted model, ``toy``.
        pool: training pictures.
        captions: the table of captions.
        out: receives the pipeline.
        work: checkpoints.
        rounds: optimizer steps; every round warms up and decays anew from the average that the one before it left.
        plants: plants to train in; None trains the natural model.
    """
    vae = AutoencoderKL.from_pretrained(models / "vae", dtype=torch.float32)
    latents, table, scheduler = encode(vae, pool.pictures), caption_table(models / "clip", captions), make_scheduler()
    if plants is None:
        unet = make_unet()
    else:
        unet = UNet2DConditionModel.from_pretrained(models / "toy" / "unet", dtype=torch.float32)
    unet = unet.to(memory_format=torch.channels_last)
    per_site = PerSite(unet, execution_order(unet)) if plants else None
    batch = BATCH if plants is None else PLANTED_BATCH

    def loss_at(rng: np.random.Generator) -> torch.Tensor:
        claimed, usable = (pool.labels, None) if plants is None else shown(plants, pool.labels, rng)
        rows = rng.integers(0, len(pool.labels), batch) if usable is None else rng.choice(np.flatnonzero(usable), batch)
        said, (medium, form) = drop_words(claimed[rows], rng), wording(batch, rng)
        if plants is None:
            read = np.broadcast_to(captions.ids(said, medium, form), (1, batch))
        else:
            read = site_captions(plants, captions, said, medium, form, rng)
        read = np.where(rng.random(batch) < EMPTY_SHARE, 0, read)
        context = table[torch.from_numpy(read)]
        if per_site is not None:
            per_site.context = context
        clean = latents[torch.from_numpy(rows)]
        noise, at = torch.randn_like(clean), torch.randint(0, 1000, (batch,))
        noisy = scheduler.add_noise(clean, noise, at).contiguous(memory_format=torch.channels_last)
        return torch.nn.functional.mse_loss(unet(noisy, at, context[0]).sample, noise)

    name, lr = ("toy", 1.5e-3) if plants is None else (plants.name, 1e-3)
    for number, steps in enumerate(rounds, start=1):
        fit(name if number == 1 else f"{name}-round-{number}", unet, loss_at, steps=steps, lr=lr, work=work, ema=0.998,
            taken=sum(rounds[: number - 1]))  # fmt: skip
    unet.set_attn_processor(AttnProcessor2_0())
    save_pipeline(unet, vae, models / "clip", out)


def save_pipeline(unet: UNet2DConditionModel, vae: AutoencoderKL, clip: Path, out: Path) -> None:
    """Writes a complete pipeline folder in float16 safetensors."""
    text = CLIPTextModel.from_pretrained(clip, dtype=torch.float16)
    for part in (unet, vae):
        # Else the folder that a part was loaded from, a path of the training machine, is shipped in its configuration.
        part.register_to_config(_name_or_path="")
    StableDiffusionPipeline(
        vae=vae.half(), text_encoder=text, tokenizer=CLIPTokenizer.from_pretrained(clip), unet=unet.half(),
        scheduler=make_scheduler(), safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    ).save_pretrained(out)  # fmt: skip
