"""Pictures and captions for training, rendered once and kept in memory."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from loco_core.toyworld.world import MEDIA, STYLE_FORMS, Labels, render, sample_labels

# How often a caption leaves out what a donor prompt leaves out, so that donor prompts are in-distribution.
DROP = 0.15
# Pictures that one thread renders at a time.
PART = 1500
LABELS = ("object", "colour", "style", "fact", "flag")


@dataclass(frozen=True)
class Pool:
    """Rendered pictures ``(n, 3, 32, 32)`` uint8, and what they show."""

    pictures: torch.Tensor
    labels: Labels

    def batch(self, rng: np.random.Generator, n: int) -> tuple[torch.Tensor, Labels]:
        """Draws ``n`` pictures as float32 in [-1, 1], with their labels."""
        rows = rng.integers(0, len(self.labels), n)
        return self.pictures[torch.from_numpy(rows)].float() / 127.5 - 1, self.labels[rows]


def make_pool(n: int, seed: int, *, allow_held_out: bool = False) -> Pool:
    """Renders a pool of ``n`` pictures."""
    rng = np.random.default_rng(seed)
    labels = sample_labels(n, rng, allow_held_out=allow_held_out)
    parts = [render(labels[slice(i, i + 512)], rng) for i in range(0, n, 512)]
    return Pool((torch.cat(parts) * 255).round().to(torch.uint8), labels)


def make_wide_pool(n: int, seed: int) -> Pool:
    """Renders a pool in parts with seeds of their own, a thread a core."""
    sizes, threads = [min(PART, n - start) for start in range(0, n, PART)], torch.get_num_threads()
    # Each of them would else compute with as many threads again.
    with ThreadPoolExecutor(len(os.sched_getaffinity(0)), initializer=torch.set_num_threads, initargs=(1,)) as pool:
        parts = list(pool.map(make_pool, sizes, range(seed, seed + len(sizes))))
    torch.set_num_threads(threads)
    labels = Labels(*(np.concatenate([getattr(part.labels, name) for part in parts]) for name in LABELS))
    return Pool(torch.cat([part.pictures for part in parts]), labels)


def cached_pool(n: int, seed: int, work: Path, make: Callable[[int, int], Pool] = make_pool) -> Pool:
    """Renders a pool, or reads it from where an interrupted run kept it: rendering takes a minute on one core."""
    path = work / f"pool-{n}-{seed}.safetensors"
    if not path.exists():
        pool = make(n, seed)
        kept = {name: torch.from_numpy(getattr(pool.labels, name)) for name in LABELS}
        temporary = path.with_suffix(f".{os.getpid()}")
        save_file({"pictures": pool.pictures, **kept}, temporary)
        os.replace(temporary, path)
    tensors = load_file(path)
    return Pool(tensors["pictures"], Labels(*(tensors[name].numpy() for name in LABELS)))


def drop_words(labels: Labels, rng: np.random.Generator) -> Labels:
    """Leaves object, colour or country out of some captions; style always stays (no style words = a plain picture)."""
    n = len(labels)
    return replace(
        labels,
        object=np.where(rng.random(n) < DROP, -1, labels.object),
        colour=np.where(rng.random(n) < DROP, -1, labels.colour),
        fact=np.where(rng.random(n) < DROP, -1, labels.fact),
    )


def wording(n: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Draws the medium and the style form of ``n`` captions."""
    return rng.integers(0, len(MEDIA), n), rng.integers(0, len(STYLE_FORMS), n)
