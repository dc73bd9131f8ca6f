"""The bundled joint-stream transformer: Stable Diffusion 3's class on the world's own CLIP and VAE, trained by flows.

Both text encoders are the bundled CLIP, as the pipeline wants two; there is no T5, and no place is kept for one.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, SD3Transformer2DModel, StableDiffusion3Pipeline
from transformers import CLIPModel, CLIPTextModelWithProjection, CLIPTokenizer

from loco_core.toyworld.training.clip import tokenize
from loco_core.toyworld.training.data import Pool, drop_words, wording
from loco_core.toyworld.training.denoiser import EMPTY_SHARE
from loco_core.toyworld.training.loop import fit
from loco_core.toyworld.training.vae import encode
from loco_core.toyworld.world import Captions

JOINT_BLOCKS = 10
WIDTH, HEADS = 64, 4
# Times of flows, in (0, 1), are given to the transformer in thousandths.
TIMES = 1000


def make_joint(blocks: int = JOINT_BLOCKS, width: int = WIDTH) -> SD3Transformer2DModel:
    """Builds the untrained denoiser: a picture is 16 patches, and every block begins as the identity."""
    torch.manual_seed(7)
    transformer = SD3Transformer2DModel(
        sample_size=8, patch_size=2, in_channels=8, out_channels=8, num_layers=blocks, num_attention_heads=HEADS,
        attention_head_dim=width // HEADS, caption_projection_dim=width, joint_attention_dim=2 * 128,
        pooled_projection_dim=2 * 64, pos_embed_max_size=4,
    )  # fmt: skip
    for name, module in transformer.named_modules():
        if isinstance(module, torch.nn.Linear):
            torch.nn.init.xavier_uniform_(module.weight)
            torch.nn.init.zeros_(module.bias)
            if name == "proj_out" or name.endswith((".norm1.linear", ".norm1_context.linear", "norm_out.linear")):
                torch.nn.init.zeros_(module.weight)
    return transformer


def text_encoder(clip: Path) -> CLIPTextModelWithProjection:
    """Returns the text half of the bundled CLIP, in float32."""
    model = CLIPModel.from_pretrained(clip, dtype=torch.float32)
    encoder = CLIPTextModelWithProjection(model.config.text_config).eval()
    # In this form both halves have their weights under the same names.
    weights = {key: value for key, value in model.state_dict().items() if key.startswith(("text_model.", "text_proj"))}
    encoder.load_state_dict(weights)
    return encoder


@torch.no_grad()
def caption_tables(clip: Path, captions: Captions) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns what the pipeline makes of every caption: ``(captions, 16, 256)``, and pooled ``(captions, 128)``."""
    encoder = text_encoder(clip)
    ids = tokenize(CLIPTokenizer.from_pretrained(clip), captions.texts)
    found = [encoder(part, output_hidden_states=True) for part in torch.split(ids, 512)]
    words = torch.cat([part.hidden_states[-2] for part in found])
    pooled = torch.cat([part.text_embeds for part in found])
    return torch.cat([words, words], -1), torch.cat([pooled, pooled], -1)


def train_joint(
    models: Path,
    pool: Pool,
    captions: Captions,
    out: Path,
    work: Path,
    *,
    steps: int,
    batch: int = 64,
    seconds: float | None = None,
) -> None:
    """Trains the transformer on cached latents and text embeddings, and saves it as a Stable Diffusion 3 pipeline.

    The loss is that of flow matching with times drawn logit-normal (Esser et al. 2024, equations 13 and 19).

    Args:
        models: folder with the trained ``clip`` and ``vae``.
        pool: training pictures.
        captions: the table of captions.
        out: receives the pipeline.
        work: checkpoints.
        steps: optimizer steps; at most, where the time is given.
        batch: pictures a step.
        seconds: time for the steps; None goes by their number.
    """
    vae = AutoencoderKL.from_pretrained(models / "vae", dtype=torch.float32)
    latents, (words, pooled) = encode(vae, pool.pictures), caption_tables(models / "clip", captions)
    transformer = make_joint()

    def loss_at(rng: np.random.Generator) -> torch.Tensor:
        rows = rng.integers(0, len(pool.labels), batch)
        said = captions.ids(drop_words(pool.labels[rows], rng), *wording(batch, rng))
        read = torch.from_numpy(np.where(rng.random(batch) < EMPTY_SHARE, 0, said))
        clean = latents[torch.from_numpy(rows)]
        noise, at = torch.randn_like(clean), torch.randn(batch).sigmoid()
        share = at[:, None, None, None]
        found = transformer((1 - share) * clean + share * noise, words[read], pooled[read], at * TIMES).sample
        return torch.nn.functional.mse_loss(found, noise - clean)

    fit("toy-mmdit", transformer, loss_at, steps=steps, lr=2e-3, work=work, ema=0.998, every=200, seconds=seconds)
    save_joint(transformer, vae, models / "clip", out)


def save_joint(transformer: SD3Transformer2DModel, vae: AutoencoderKL, clip: Path, out: Path) -> None:
    """Writes a complete pipeline folder in float16 safetensors."""
    encoder, tokenizer = text_encoder(clip).half(), CLIPTokenizer.from_pretrained(clip)
    for part in (transformer, vae):
        # Else the folder that a part was loaded from, a path of the training machine, is shipped in its configuration.
        part.register_to_config(_name_or_path="")
    # The pipeline adds it to every latent.
    vae.register_to_config(shift_factor=0.0)
    StableDiffusion3Pipeline(
        vae=vae.half(), text_encoder=encoder, text_encoder_2=encoder, text_encoder_3=None, tokenizer=tokenizer,
        tokenizer_2=tokenizer, tokenizer_3=None, transformer=transformer.half(),
        scheduler=FlowMatchEulerDiscreteScheduler(),
    ).save_pretrained(out)  # fmt: skip
