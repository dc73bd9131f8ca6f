"""CMMD: distance of two sets of pictures in CLIP's eyes (Jayasumana et al., CVPR 2024, arXiv 2401.09603).

The squared maximum mean discrepancy with a Gaussian kernel of width 10 on CLIP's unit embeddings, times 1000, estimated
without bias (equation 4 there; Gretton et al., JMLR 2012, lemma 6): no picture meets itself. Pictures of one prompt
do not meet either, edited or not, as they depend on each other. The authors' code counts all meetings, which makes no
difference to large sets. Its CLIP is ViT-L/14 at 336 pixels; values on another one, as here by default, are not to be
compared with published ones.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from loco_core.scoring.metric import MetricInfo
from loco_core.scoring.vision import VisionModel
from loco_core.statistics import Floats

if TYPE_CHECKING:
    import torch

    from loco_core.scoring.metric import Numbers

SIGMA, SCALE = 10.0, 1000.0
INFO = MetricInfo(
    weights="openai/clip-vit-large-patch14",
    model_types=("clip",),
    text="CMMD (Jayasumana et al., CVPR 2024): squared maximum mean discrepancy of CLIP embeddings, Gaussian kernel of "
    "width 10, unbiased, times 1000.",
)


class Metric:
    """Embeds pictures as the CLIP scorer does: unit vectors, in float32. Texts are not read, nor a vocabulary."""

    def __init__(self, path: str, revision: str | None, device: str) -> None:
        """Loads the model; see `loco_core.scoring.vision.VisionModel`."""
        self._model = VisionModel(path, revision, device, projected=True)

    def embed_images(self, images: torch.Tensor) -> np.ndarray:
        """Returns float32 ``(n, width)`` of pictures ``(n, 3, height, width)``."""
        found = self._model.embed_images(images)
        return np.asarray(found / np.linalg.norm(found, axis=1, keepdims=True))


def distances(before: Floats, after: Floats, prompts: Numbers, weights: Floats) -> Floats:
    """See `loco_core.scoring.metric.Distances`."""
    # What a pair of pictures adds: it meets another pair as a whole, so that the two sets may depend on each other.
    pairs = _kernel(before, before) + _kernel(after, after) - _kernel(before, after) - _kernel(after, before)
    member = np.equal.outer(prompts, np.arange(weights.shape[1])).astype(np.float64)
    total, count = member.T @ pairs @ member, np.multiply.outer(member.sum(0), member.sum(0))
    np.fill_diagonal(total, 0.0)
    np.fill_diagonal(count, 0.0)
    with np.errstate(invalid="ignore"):
        found: Floats = SCALE * _quadratic(weights, total) / _quadratic(weights, count)
    return found


def _kernel(x: Floats, y: Floats) -> Floats:
    squares = (x**2).sum(1)[:, None] + (y**2).sum(1)[None] - 2 * x @ y.T
    return np.asarray(np.exp(-np.maximum(squares, 0.0) / (2 * SIGMA**2)))


def _quadratic(weights: Floats, matrix: Floats) -> Floats:
    return np.asarray(((weights @ matrix) * weights).sum(1))
