"""SSIM: structural similarity of two pictures (Wang et al., IEEE Transactions on Image Processing 2004, equation 13).

A Gaussian window of 11 pixels with deviation 1.5, constants 0.01 and 0.03, the mean over colour channels and over all
windows that lie in the picture, as the authors' code takes it: 1 is the same picture. A picture with a side below 11
pixels holds no such window, and is refused.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from loco_core.errors import SpecError
from loco_core.scoring.metric import MetricInfo

if TYPE_CHECKING:
    import torch

MARGIN = 5
"""Pixels at each side whose windows reach beyond the picture."""
LEAST_SIDE = 2 * MARGIN + 1
"""Side of the window, and of the smallest picture that holds one."""
INFO = MetricInfo(
    least_side=LEAST_SIDE,
    text="SSIM (Wang et al., 2004) between pictures of one prompt and seed: Gaussian window of 11 pixels, mean of the "
    "colour channels; 1 is the same picture.",
)


class Metric:
    """Torchmetrics' SSIM of pictures in [0, 1], in float64."""

    def __init__(self, path: str, revision: str | None, device: str) -> None:
        """Loads nothing."""

    def compare(self, before: torch.Tensor, after: torch.Tensor) -> np.ndarray:
        """Returns float64 ``(n,)`` in [-1, 1] of pictures ``(n, 3, height, width)``.

        Raises:
            SpecError: a side is shorter than the window.
        """
        import torch
        from torchmetrics.functional.image import structural_similarity_index_measure

        height, width = after.shape[-2:]
        if min(height, width) < LEAST_SIDE:
            window = f"{LEAST_SIDE} x {LEAST_SIDE}"
            raise SpecError(f"ssim reads windows of {window} pixels; a picture of {height} x {width} holds none")
        pair = after.double(), before.double()
        _, full = structural_similarity_index_measure(*pair, data_range=1.0, reduction="none", return_full_image=True)
        assert isinstance(full, torch.Tensor)
        inside = full.reshape(pair[0].shape)[:, :, MARGIN:-MARGIN, MARGIN:-MARGIN]
        return np.asarray(inside.mean((1, 2, 3)).cpu().numpy())
