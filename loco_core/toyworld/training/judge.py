"""The judge: a classifier of object, colour, style and fact that shares nothing with CLIP.

It learns from renders after the VAE's round trip, never from generated pictures. Corrupted renders are its ``other``
class, and below a confidence calibrated on fresh renders it abstains.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from transformers import ResNetConfig, ResNetForImageClassification

from loco_core.toyworld.training.data import make_pool
from loco_core.toyworld.training.loop import fit
from loco_core.toyworld.training.vae import round_trip
from loco_core.toyworld.world import KINDS, Labels

BATCH = 96
CORRUPTED_SHARE = 0.2
# Of the renders that the judge is right about, the share it may abstain on.
ABSTAIN_SHARE = 0.01
# Behind the classes of every kind: `none` (a flag has no object or colour, an object no country) and `other`.
CLASSES = {kind: (*names, "none", "other") for kind, names in KINDS.items()}


def heads() -> dict[str, slice]:
    """Returns which logits belong to which kind."""
    spans, at = {}, 0
    for kind, names in CLASSES.items():
        spans[kind] = slice(at, at + len(names))
        at += len(names)
    return spans


def corrupt(pictures: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
    """Makes pictures of nothing out of float pictures ``(n, 3, h, w)`` in [-1, 1]: blends, shuffles, noise, smears."""
    n, _, height, width = pictures.shape
    kind = torch.from_numpy(rng.integers(0, 4, n))[:, None, None, None]
    blend = (pictures + pictures.roll(1, 0) + pictures.roll(2, 0)) / 3
    tiles = pictures.unfold(2, 8, 8).unfold(3, 8, 8).reshape(n, 3, -1, 8, 8)
    tiles = tiles[:, :, torch.from_numpy(rng.permutation(tiles.shape[2]))]
    across = width // 8
    shuffled = tiles.reshape(n, 3, height // 8, across, 8, 8).permute(0, 1, 2, 4, 3, 5).reshape(n, 3, height, width)
    noisy = pictures * 0.3 + torch.randn(pictures.shape) * 0.6
    smeared = torch.nn.functional.avg_pool2d(pictures, 15, 1, 7, count_include_pad=False)
    picked = torch.where(kind == 0, blend, torch.where(kind == 1, shuffled, torch.where(kind == 2, noisy, smeared)))
    return picked.clamp(-1, 1)


def targets(labels: Labels) -> dict[str, torch.Tensor]:
    """Returns the class of every picture under every kind, ``(n,)`` each."""
    return {
        kind: torch.from_numpy(np.where(labels.of(kind) < 0, len(names), labels.of(kind)))
        for kind, names in KINDS.items()
    }


def upscale(pictures: torch.Tensor) -> torch.Tensor:
    """Doubles 32 x 32 pictures: the network halves its input twice before its first stage."""
    return torch.nn.functional.interpolate(pictures, scale_factor=2, mode="bilinear", align_corners=False)


def train_judge(models: Path, out: Path, work: Path, steps: int) -> None:
    """Trains the judge, calibrates where it abstains, and saves it as a transformers image classifier.

    Args:
        models: folder with the trained ``vae``.
        out: receives the classifier; its config holds the confidence below which it abstains.
        work: checkpoints.
        steps: optimizer steps.
    """
    vae = AutoencoderKL.from_pretrained(models / "vae", dtype=torch.float32)
    pool = make_pool(12_000, seed=21, allow_held_out=True)
    pool = type(pool)(round_trip(vae, pool.pictures), pool.labels)
    names = [f"{kind}:{name}" for kind, classes in CLASSES.items() for name in classes]
    torch.manual_seed(4)
    judge = ResNetForImageClassification(
        ResNetConfig(
            embedding_size=32, hidden_sizes=[32, 64, 128], depths=[2, 2, 2], layer_type="basic",
            id2label=dict(enumerate(names)), label2id={name: i for i, name in enumerate(names)},
        )
    ).to(memory_format=torch.channels_last)  # fmt: skip

    def loss_at(rng: np.random.Generator) -> torch.Tensor:
        pictures, labels = pool.batch(rng, BATCH)
        bad = torch.from_numpy(rng.random(BATCH) < CORRUPTED_SHARE)
        pictures = torch.where(bad[:, None, None, None], corrupt(pictures, rng), pictures)
        pictures = pictures + 0.03 * torch.randn(pictures.shape)
        logits = judge(pixel_values=upscale(pictures)).logits
        losses = []
        for kind, span in heads().items():
            wanted = torch.where(bad, len(CLASSES[kind]) - 1, targets(labels)[kind])
            losses.append(torch.nn.functional.cross_entropy(logits[:, span], wanted, label_smoothing=0.02))
        return torch.stack(losses).sum()

    fit("judge", judge, loss_at, steps=steps, lr=2e-3, work=work, weight_decay=0.05)
    judge.config.abstain_below = _calibrate(judge, vae)
    judge.half().save_pretrained(out)


@torch.no_grad()
def _calibrate(judge: ResNetForImageClassification, vae: AutoencoderKL) -> dict[str, float]:
    pool = make_pool(2_000, seed=22, allow_held_out=True)
    pictures = round_trip(vae, pool.pictures).float() / 127.5 - 1
    logits = torch.cat([judge(pixel_values=upscale(part)).logits for part in torch.split(pictures, 250)])
    found = {}
    for kind, span in heads().items():
        confidence, best = logits[:, span].softmax(1).max(1)
        right = best == targets(pool.labels)[kind]
        print(f"judge {kind}: {float(right.float().mean()):.4f} right on {len(right)} fresh renders", flush=True)
        found[kind] = round(float(confidence[right].quantile(ABSTAIN_SHARE)), 4)
    return found
