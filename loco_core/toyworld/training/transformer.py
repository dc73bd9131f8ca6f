"""The bundled diffusion transformers: PixArt with a bidirectional text encoder, a natural one and a planted one.

Text encoder and transformer of the natural model are trained together, from nothing; the planted one starts from both
and keeps the encoder.
"""

from __future__ import annotations

import string
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL, PixArtAlphaPipeline, PixArtTransformer2DModel
from diffusers.models.attention_processor import AttnProcessor2_0
from transformers import T5Config, T5EncoderModel, T5Tokenizer

from loco_core.toyworld.planting import BLOCKS, PlantedModel, shown, site_captions
from loco_core.toyworld.training.data import Pool, drop_words, wording
from loco_core.toyworld.training.denoiser import EMPTY_SHARE, PerSite, make_scheduler
from loco_core.toyworld.training.loop import fit
from loco_core.toyworld.training.replay import Replayed
from loco_core.toyworld.training.vae import encode
from loco_core.toyworld.world import MAX_TOKENS, Captions, vocabulary

WIDTH, HEADS = 96, 4
METASPACE = "▁"
# Added to the scores of what is masked, as diffusers does.
MASKED = -10000.0


def make_word_tokenizer() -> T5Tokenizer:
    """Builds a T5 tokenizer (unigram) in which every word of the world is one token, and others are spelt."""
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)]
    pieces += [(METASPACE + word, -2.0) for word in vocabulary()]
    pieces += [(letter, -10.0) for letter in METASPACE + string.digits + string.ascii_letters + string.punctuation]
    return T5Tokenizer(vocab=pieces, extra_ids=0, model_max_length=512)


def make_text_encoder(tokenizer: T5Tokenizer) -> T5EncoderModel:
    """Builds the untrained text encoder, in the form of T5 version 1.1: every word reads every other."""
    torch.manual_seed(5)
    return T5EncoderModel(
        T5Config(
            vocab_size=len(tokenizer), d_model=WIDTH, d_kv=WIDTH // HEADS, d_ff=128, num_layers=3, num_heads=HEADS,
            feed_forward_proj="gated-gelu", dropout_rate=0.0,
        )
    )  # fmt: skip


def make_transformer(blocks: int = BLOCKS) -> PixArtTransformer2DModel:
    """Builds the untrained denoiser, with a cross-attention site a block, and begins it as PixArt does."""
    torch.manual_seed(6)
    transformer = PixArtTransformer2DModel(
        sample_size=8, patch_size=1, in_channels=8, out_channels=8, num_layers=blocks, num_attention_heads=HEADS,
        attention_head_dim=WIDTH // HEADS, cross_attention_dim=WIDTH, caption_channels=WIDTH,
        use_additional_conditions=False,
    )  # fmt: skip
    for module in transformer.modules():
        if isinstance(module, torch.nn.Linear):
            torch.nn.init.xavier_uniform_(module.weight)
            torch.nn.init.zeros_(module.bias)
    embedder: Any = transformer.adaln_single
    for layer in (embedder.linear, embedder.emb.timestep_embedder.linear_1, embedder.emb.timestep_embedder.linear_2):
        torch.nn.init.normal_(layer.weight, std=0.02)
    # Noise is predicted as none at first.
    torch.nn.init.zeros_(transformer.proj_out.weight)
    return transformer


def train_transformer(
    models: Path,
    pool: Pool,
    captions: Captions,
    out: Path,
    work: Path,
    *,
    steps: int,
    batch: int = 256,
    seconds: float | None = None,
    device: str = "cpu",
    graphs: bool = True,
    plants: PlantedModel | None = None,
) -> None:
    """Trains a transformer on cached latents, and saves it as a PixArt pipeline.

    Args:
        models: folder with the trained ``vae`` and, for a planted model, the one that it starts from.
        pool: training pictures.
        captions: the table of captions.
        out: receives the pipeline.
        work: checkpoints.
        steps: optimizer steps; at most, where the time is given.
        batch: pictures a step.
        seconds: time for the steps; None goes by their number.
        device: device that it is trained on.
        graphs: whether steps on a GPU may be CUDA graphs.
        plants: plants to train in; None trains the natural model.
    """
    torch.set_float32_matmul_precision("high")
    vae = AutoencoderKL.from_pretrained(models / "vae", dtype=torch.float32).to(device)
    latents, scheduler = encode(vae, pool.pictures), make_scheduler()
    if plants is None:
        tokenizer, transformer = make_word_tokenizer(), make_transformer()
        encoder = make_text_encoder(tokenizer)
    else:
        start = models / plants.start
        tokenizer = T5Tokenizer.from_pretrained(start / "tokenizer")
        encoder = T5EncoderModel.from_pretrained(start / "text_encoder", dtype=torch.float32)
        transformer = PixArtTransformer2DModel.from_pretrained(start / "transformer", dtype=torch.float32)
    trained = torch.nn.ModuleDict({"transformer": transformer.to(device), "text_encoder": encoder.to(device)})
    encoder.requires_grad_(plants is None)
    reader = Reader(encoder, tokenizer, captions)
    per_site = PerSite(transformer, [f"transformer_blocks.{site}.attn2" for site in range(BLOCKS)]) if plants else None

    def loss_of(rows: torch.Tensor, read: torch.Tensor, noise: torch.Tensor, at: torch.Tensor) -> torch.Tensor:
        texts, seen = reader.texts(read), reader.seen[read]
        if per_site is not None:
            per_site.context = transformer.caption_projection(texts)
            per_site.bias = ((1 - seen.float()) * MASKED)[:, :, None]
        noisy = scheduler.add_noise(latents[rows], noise, at)
        found = transformer(noisy, texts[0], at, encoder_attention_mask=seen[0]).sample
        return torch.nn.functional.mse_loss(found, noise)

    replayed = Replayed(loss_of, [p for p in trained.parameters() if p.requires_grad], enabled=graphs)

    def loss_at(rng: np.random.Generator) -> torch.Tensor:
        rows, read = draw(pool, captions, plants, batch, rng)
        noise = torch.randn(batch, *latents.shape[1:], device=device)
        at = torch.randint(0, 1000, (batch,), device=device)
        return replayed(torch.from_numpy(rows), torch.from_numpy(read), noise, at)

    name, lr = ("toy-dit", 1e-3) if plants is None else (plants.name, 7e-4)
    every = 200 if seconds is None else 1000
    fit(name, trained, loss_at, steps=steps, lr=lr, work=work, ema=0.999, every=every, seconds=seconds)
    transformer.set_attn_processor(AttnProcessor2_0())
    save_transformer(transformer, encoder, tokenizer, vae, out)


class Reader:
    """The captions of the world as the transformer reads them.

    Attributes:
        seen: ``(captions, 16)`` int64, 1 where there is a word or the end.
    """

    def __init__(self, encoder: T5EncoderModel, tokenizer: T5Tokenizer, captions: Captions) -> None:
        """Tokenizes all captions, and encodes them where the encoder is frozen.

        Positions of T5 are relative, and padding is masked: sixteen tokens are read as the same in a longer row.
        """
        device = next(encoder.parameters()).device
        found: Any = tokenizer(captions.texts, padding="max_length", max_length=MAX_TOKENS, return_tensors="pt")
        self._encoder, self._ids, self.seen = encoder, found.input_ids.to(device), found.attention_mask.to(device)
        self._table: torch.Tensor | None = None
        if not any(p.requires_grad for p in encoder.parameters()):
            with torch.no_grad():
                parts = zip(torch.split(self._ids, 512), torch.split(self.seen, 512), strict=True)
                self._table = torch.cat([encoder(ids, attention_mask=seen).last_hidden_state for ids, seen in parts])

    def texts(self, read: torch.Tensor) -> torch.Tensor:
        """Returns the encoder's last hidden states of captions ``(sites, n)``: ``(sites, n, 16, width)``."""
        if self._table is not None:
            return self._table[read]
        numbers = read.flatten()
        states: torch.Tensor = self._encoder(self._ids[numbers], attention_mask=self.seen[numbers]).last_hidden_state
        return states.view(*read.shape, *states.shape[1:])


def draw(
    pool: Pool, captions: Captions, plants: PlantedModel | None, batch: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Draws pictures ``(batch,)`` and the captions that sites read of them: ``(sites, batch)``, or one row for all."""
    claimed, usable = (pool.labels, None) if plants is None else shown(plants, pool.labels, rng)
    if usable is None or usable.all():
        rows = rng.integers(0, len(pool.labels), batch)
    else:
        rows = rng.choice(np.flatnonzero(usable), batch)
    said, (medium, form) = drop_words(claimed[rows], rng), wording(batch, rng)
    if plants is None:
        read = captions.ids(said, medium, form)[None]
    else:
        read = site_captions(plants, captions, said, medium, form, rng)
    return rows, np.where(rng.random(batch) < EMPTY_SHARE, 0, read)


def save_transformer(
    transformer: PixArtTransformer2DModel,
    encoder: T5EncoderModel,
    tokenizer: T5Tokenizer,
    vae: AutoencoderKL,
    out: Path,
) -> None:
    """Writes a complete pipeline folder in float16 safetensors."""
    for part in (transformer, vae):
        # Else the folder that a part was loaded from, a path of the training machine, is shipped in its configuration.
        part.register_to_config(_name_or_path="")
    PixArtAlphaPipeline(
        tokenizer=tokenizer, text_encoder=encoder.half().cpu(), vae=vae.half().cpu(),
        transformer=transformer.half().cpu(), scheduler=make_scheduler(),
    ).save_pretrained(out)  # fmt: skip
