"""From a tensor to a picture."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from PIL.Image import Image


def to_picture(image: torch.Tensor) -> Image:
    """Returns an image ``(3, height, width)`` in [0, 1] as an RGB picture; what is not a number becomes black."""
    from PIL import Image

    return Image.fromarray((image.nan_to_num().clamp(0, 1) * 255).round().byte().permute(1, 2, 0).cpu().numpy())
