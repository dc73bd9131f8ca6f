"""DINO distance: how far two pictures are apart for a self-supervised vision model (Caron et al., ICCV 2021).

One less the cosine of the class tokens, as DreamBooth compares pictures by their cosine (Ruiz et al., CVPR 2023): 0 is
the same picture. The default is DINOv2 (Oquab et al., TMLR 2024), whose repository holds safetensors; DreamBooth read
DINO ViT-S/16.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from loco_core.scoring.metric import MetricInfo
from loco_core.scoring.vision import SELF_SUPERVISED, VisionModel

if TYPE_CHECKING:
    import torch

INFO = MetricInfo(
    weights="facebook/dinov2-small",
    model_types=SELF_SUPERVISED,
    text="DINO distance (Caron et al., ICCV 2021; DINOv2: Oquab et al., TMLR 2024) between pictures of one prompt and "
    "seed: 1 less the cosine of class tokens; 0 is the same picture.",
)


class Metric:
    """Any DINO, DINOv2 or DINOv3 model."""

    def __init__(self, path: str, revision: str | None, device: str) -> None:
        """Loads the model; see `loco_core.scoring.vision.VisionModel`."""
        self._model = VisionModel(path, revision, device)

    def compare(self, before: torch.Tensor, after: torch.Tensor) -> np.ndarray:
        """Returns float64 ``(n,)`` in [0, 2] of pictures ``(n, 3, height, width)``."""
        tokens = [self._model.embed_images(images).astype(np.float64) for images in (before, after)]
        units = [each / np.linalg.norm(each, axis=1, keepdims=True) for each in tokens]
        return np.asarray(np.maximum(1 - (units[0] * units[1]).sum(1), 0.0))
