"""A scorer without weights: the mean colour of a picture along a direction that a text stands for."""

from __future__ import annotations

import zlib

import numpy as np
import torch


class Scorer:
    """Scores mean colours."""

    def __init__(self, path: str, revision: str | None, device: str) -> None:
        self.path = path

    def embed_images(self, images: torch.Tensor) -> np.ndarray:
        colours: np.ndarray = images.mean((2, 3)).numpy().astype(np.float32)
        return colours

    def score(self, embeddings: np.ndarray, texts: list[str]) -> np.ndarray:
        directions = [np.random.default_rng(zlib.crc32(text.encode())).normal(size=3) for text in texts]
        return np.stack([embeddings.astype(np.float64) @ direction for direction in directions], axis=1)
