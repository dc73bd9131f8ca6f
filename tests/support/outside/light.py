"""A judge without weights: it takes what is bright for one style and what is dark for none that it knows."""

from __future__ import annotations

import numpy as np
import torch

STYLES = ("velor", "lumio")


class Judge:
    """Names styles by their brightness."""

    kinds = ("style",)

    def __init__(self, path: str, revision: str | None, device: str) -> None: ...

    def embed_images(self, images: torch.Tensor) -> np.ndarray:
        found: np.ndarray = images.mean((1, 2, 3)).numpy().astype(np.float32)[:, None]
        return found

    def name(self, embeddings: np.ndarray, kind: str) -> list[str]:
        return [STYLES[0] if value > 0.3 else "other" for value in embeddings[:, 0]]

    def said(self, text: str, kind: str) -> str | None:
        return next((name for name in STYLES if name in text.split()), None)
