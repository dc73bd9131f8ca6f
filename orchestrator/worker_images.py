"""Pictures as a worker sees them: whether they are pictures at all, and how they are kept."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

from loco_core.types import Generation

if TYPE_CHECKING:
    import torch

# A picture of one colour is no picture: the standard deviation of its pixels, in [0, 1], that still counts as one.
CONSTANT_BELOW = 1e-3


def is_valid(picture: torch.Tensor, generation: Generation) -> bool:
    """Tells whether a picture is finite, not of one colour (black included), and of the size that was asked for.

    Args:
        picture: ``(3, height, width)`` in [0, 1].
        generation: settings that it was made with.
    """
    wanted = (generation.height or picture.shape[1], generation.width or picture.shape[2])
    return (
        bool(picture.isfinite().all())
        and tuple(picture.shape) == (3, *wanted)
        and float(picture.std(dim=(1, 2)).max()) > CONSTANT_BELOW
    )


def encode_image(picture: torch.Tensor, name: str) -> dict[str, Any]:
    """Returns a picture ``(3, height, width)`` in [0, 1] as PNG, in the form that Hugging Face datasets reads."""
    from PIL import Image

    pixels = (picture.nan_to_num().clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy()
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, format="PNG")
    return {"bytes": stream.getvalue(), "path": f"{name}.png"}
