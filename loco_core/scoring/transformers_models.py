"""What scorers and judges that are models of transformers share: reading pictures, and loading in one clean way."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from loco_core.errors import LocoError, ModelError

if TYPE_CHECKING:
    import torch


def as_pictures(images: torch.Tensor) -> tuple[list[Any], np.ndarray]:
    """Returns pictures as processors of transformers take them (PIL, 8 bits), and which of them are finite.

    Args:
        images: ``(n, 3, height, width)`` in [0, 1]; what is no number becomes black.
    """
    import torch
    from PIL import Image

    finite = images.isfinite().all(dim=(1, 2, 3)) if images.ndim == 4 else torch.ones(len(images), dtype=torch.bool)
    bytes_ = (images.nan_to_num().clamp(0, 1) * 255).round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
    return [Image.fromarray(picture) for picture in bytes_], finite.cpu().numpy()


@contextmanager
def loading(path: str, what: str) -> Iterator[None]:
    """Turns whatever goes wrong while a model is loaded into one line; refuses one whose weights are not all there.

    Args:
        path: folder or hub id, as it was given.
        what: what it is loaded as, in words: "a CLIP model".

    Raises:
        ModelError: something went wrong.
    """
    from loco_core.diffusion.loading import noted, reason_of

    try:
        with noted() as parts:
            yield
        for part in parts:
            part.check()
    except LocoError:
        raise
    except Exception as error:  # a damaged folder makes libraries raise anything
        raise ModelError(f"cannot load {path} as {what} from safetensors: {reason_of(error)}") from error
