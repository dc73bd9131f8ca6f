"""Pictures as a worker sees them: whether they are pictures at all, and how they are kept."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

from loco_core.types import Generation

if TYPE_CHECKING:
    import torch


def is_valid(picture: torch.Tensor, generation: Generation, enlargement: int) -> bool:
    """Tells whether a picture is finite, not of one colour (black included), and of the size that was asked for.

    Args:
        picture: ``(3, height, width)`` in [0, 1].
        generation: settings that it was made with.
        enlargement: how many times larger a second stage makes it than was asked of the first; 1 without one.
    """
    from loco_core.diffusion.generate import of_one_colour

    wanted = tuple(
        enlargement * asked if asked else side
        for asked, side in zip((generation.height, generation.width), picture.shape[1:], strict=True)
    )
    right = bool(picture.isfinite().all()) and tuple(picture.shape) == (3, *wanted)
    return right and not bool(of_one_colour(picture[None])[0])


def encode_image(picture: torch.Tensor, name: str) -> dict[str, Any]:
    """Returns a picture ``(3, height, width)`` in [0, 1] as PNG, in the form that Hugging Face datasets reads."""
    from loco_core.diffusion.pictures import to_picture

    stream = io.BytesIO()
    to_picture(picture).save(stream, format="PNG")
    return {"bytes": stream.getvalue(), "path": f"{name}.png"}
