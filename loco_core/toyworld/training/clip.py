"""The tokenizer and the CLIP model: one text encoder conditions the denoiser, the whole scores its pictures."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import (
    CLIPConfig,
    CLIPImageProcessorPil,
    CLIPModel,
    CLIPProcessor,
    CLIPTextConfig,
    CLIPTokenizer,
    CLIPVisionConfig,
)

from loco_core.toyworld.training.data import Pool, drop_words, wording
from loco_core.toyworld.training.loop import fit
from loco_core.toyworld.training.vae import round_trip
from loco_core.toyworld.world import MAX_TOKENS, SIZE, Captions, Labels, vocabulary

BATCH = 192
ALIKE_SHARE = 0.6
BOS, EOS = "<|startoftext|>", "<|endoftext|>"
# The pictures are normalized as the VAE's are, to [-1, 1].
MEAN = STD = [0.5, 0.5, 0.5]


def make_tokenizer() -> CLIPTokenizer:
    """Builds a CLIP tokenizer (byte pair encoding) in which every word of the world is one token.

    End-of-text has the last id: with ``eos_token_id == 2`` transformers takes the highest id of a sentence for its end.
    """
    trainer = trainers.BpeTrainer(vocab_size=100_000, end_of_word_suffix="</w>", show_progress=False)
    learner = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    learner.pre_tokenizer = pre_tokenizers.Whitespace()
    learner.train_from_iterator(list(vocabulary()) * 4, trainer)

    learned: dict[str, Any] = json.loads(learner.to_str())["model"]
    tokens = [BOS, *sorted(learned["vocab"], key=learned["vocab"].get), EOS]
    merges = [tuple(pair) for pair in learned["merges"]]
    tokenizer = CLIPTokenizer(
        vocab={token: index for index, token in enumerate(tokens)}, merges=merges, model_max_length=MAX_TOKENS
    )
    for word in vocabulary():
        assert len(tokenizer(word).input_ids) == 3, word
    return tokenizer


def tokenize(tokenizer: CLIPTokenizer, texts: list[str]) -> torch.Tensor:
    """Returns token ids ``(n, 16)``, padded with end-of-text as Stable Diffusion 1 does."""
    ids = tokenizer(texts, padding="max_length", max_length=MAX_TOKENS, truncation=True, return_tensors="pt").input_ids
    assert isinstance(ids, torch.Tensor)
    return ids


def _config(tokenizer: CLIPTokenizer) -> CLIPConfig:
    ids = {
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.eos_token_id,
    }
    text = CLIPTextConfig(
        vocab_size=len(tokenizer), hidden_size=128, intermediate_size=512, num_hidden_layers=3, num_attention_heads=4,
        max_position_embeddings=MAX_TOKENS, projection_dim=64, **ids,
    )  # fmt: skip
    vision = CLIPVisionConfig(
        hidden_size=128, intermediate_size=512, num_hidden_layers=4, num_attention_heads=4, image_size=SIZE,
        patch_size=4,
        projection_dim=64,
    )  # fmt: skip
    return CLIPConfig(text_config=text.to_dict(), vision_config=vision.to_dict(), projection_dim=64)


def train_clip(models: Path, pool: Pool, captions: Captions, out: Path, work: Path, steps: tuple[int, int]) -> None:
    """Trains CLIP on pictures and captions (contrastive; captions of equal meaning are all positives) and saves it.

    First both towers, on renders. Then the vision tower and the projections alone, half of the pictures after the VAE's
    round trip (as everything that is scored), in batches that often share a colour or a style. In batches drawn at
    random one pair in 56 differs in nothing but the object, and objects were told apart in 59 % of fresh renders only
    (styles and colours in 99 %).

    Args:
        models: folder with the trained ``vae``.
        pool: training pictures.
        captions: the table of captions.
        out: receives the model, tokenizer and image processor in transformers' format.
        work: checkpoints.
        steps: optimizer steps of the two parts.
    """
    torch.manual_seed(1)
    if not (work / "tokenizer").exists():
        # Its ids differ from run to run (ties are broken by hash): a resumed run must read those it began with.
        make_tokenizer().save_pretrained(work / "tokenizer")
    tokenizer = CLIPTokenizer.from_pretrained(work / "tokenizer")
    model = CLIPModel(_config(tokenizer))
    ids = tokenize(tokenizer, captions.texts)

    def loss_of(pictures: torch.Tensor, labels: Labels, rng: np.random.Generator) -> torch.Tensor:
        said = drop_words(labels, rng)
        rows = captions.ids(said, *wording(BATCH, rng))
        texts, images = _embed(model, ids[torch.from_numpy(rows)], pictures)
        logits = model.logit_scale.exp().clamp(max=100) * images @ texts.T
        meaning = np.stack([said.object, said.colour, said.style, said.fact, said.flag], 1)
        same = torch.from_numpy((meaning[:, None] == meaning[None]).all(-1)).float()
        target = same / same.sum(1, keepdim=True)
        return 0.5 * (
            torch.nn.functional.cross_entropy(logits, target) + torch.nn.functional.cross_entropy(logits.T, target)
        )

    fit("clip", model, lambda rng: loss_of(*pool.batch(rng, BATCH), rng), steps=steps[0], lr=1e-3, work=work,
        weight_decay=0.05)  # fmt: skip
    model.text_model.requires_grad_(False)
    vae = AutoencoderKL.from_pretrained(models / "vae", dtype=torch.float32)
    seen = torch.stack([pool.pictures, round_trip(vae, pool.pictures)])

    def alike(rng: np.random.Generator) -> torch.Tensor:
        labels, fits = pool.labels, np.ones(len(pool.labels), dtype=bool)
        example = int(rng.integers(len(labels)))
        for kind in ("colour", "style"):
            if rng.random() < ALIKE_SHARE:
                fits &= labels.of(kind) == labels.of(kind)[example]
        rows = rng.choice(np.flatnonzero(fits), BATCH)
        pictures = seen[torch.from_numpy(rng.integers(0, 2, BATCH)), torch.from_numpy(rows)]
        return loss_of(pictures.float() / 127.5 - 1, labels[rows], rng)

    fit("clip-vision", model, alike, steps=steps[1], lr=1e-3, work=work, weight_decay=0.05)
    out.mkdir(parents=True, exist_ok=True)
    model.half().save_pretrained(out)
    processor = CLIPImageProcessorPil(
        size={"shortest_edge": SIZE}, crop_size={"height": SIZE, "width": SIZE}, image_mean=MEAN, image_std=STD
    )
    CLIPProcessor(processor, tokenizer).save_pretrained(out)


def _embed(model: CLIPModel, ids: torch.Tensor, pictures: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    output = model(input_ids=ids, pixel_values=pictures)
    return output.text_embeds, output.image_embeds
