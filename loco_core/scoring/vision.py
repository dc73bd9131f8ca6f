"""Features of pictures: the class token of a vision transformer of transformers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from loco_core.diffusion.folders import PROCESSORS, scorer_files
from loco_core.diffusion.hub import Needs, local_folder
from loco_core.diffusion.wanted import scorer_choice
from loco_core.errors import ModelError

if TYPE_CHECKING:
    from pathlib import Path

    import torch

SELF_SUPERVISED = ("vit", "dinov2", "dinov2_with_registers", "dinov3_vit")
"""Model types of transformers whose first output is a class token: DINO, DINOv2 and DINOv3 among them."""
MODEL_TYPES = (*SELF_SUPERVISED, "clip")
_OPTIONS = {"vit": {"add_pooling_layer": False}}


def _is_whole(folder: Path, _: bool) -> bool:
    try:
        scorer_files(folder)
    except ModelError:
        return False
    return any((folder / name).is_file() for name in PROCESSORS)


VISION = Needs("config.json", scorer_choice, _is_whole)
"""What is loaded of a vision model on the hub."""


class VisionModel:
    """Any model of `MODEL_TYPES`, in float32; of CLIP its tower of pictures alone: no texts, and no vocabulary."""

    def __init__(self, path: str, revision: str | None, device: str, *, projected: bool = False) -> None:
        """Loads the model and what prepares pictures for it.

        Args:
            path: folder or hub id.
            revision: commit on the hub.
            device: e.g. ``cuda`` or ``cpu``.
            projected: whether features of CLIP are those behind its projection, where texts are, too.

        Raises:
            ModelError: no such model, not in safetensors, or of another type; weights are missing.
        """
        import torch
        from transformers import (
            AutoConfig,
            AutoImageProcessor,
            AutoModel,
            CLIPVisionModel,
            CLIPVisionModelWithProjection,
        )

        from loco_core.diffusion.loading import noted, reason_of

        where = str(local_folder(path, revision, VISION))
        try:
            kind = AutoConfig.from_pretrained(where, trust_remote_code=False).model_type
            kind_of: Any = AutoModel
            if kind == "clip":
                kind_of = CLIPVisionModelWithProjection if projected else CLIPVisionModel
            with noted() as parts:
                model = kind_of.from_pretrained(
                    where, use_safetensors=True, dtype=torch.float32, trust_remote_code=False, **_OPTIONS.get(kind, {})
                )
            self._processor = AutoImageProcessor.from_pretrained(where, trust_remote_code=False, backend="pil")
        except Exception as error:  # a damaged folder makes libraries raise anything
            raise ModelError(f"cannot load {path} as a vision model from safetensors: {reason_of(error)}") from error
        for part in parts:
            part.check()
        if kind not in MODEL_TYPES:
            raise ModelError(f"{path} holds a {kind} model; expected one of {', '.join(MODEL_TYPES)}")
        self._read = ("image_embeds" if projected else "pooler_output") if kind == "clip" else "last_hidden_state"
        self._model = model.to(device).eval()
        self._device = device

    def embed_images(self, images: torch.Tensor) -> np.ndarray:
        """Returns float32 features ``(n, width)`` of pictures ``(n, 3, height, width)`` in [0, 1]."""
        import torch
        from PIL import Image

        from loco_core.diffusion.engine import unrounded

        bytes_ = (images.clamp(0, 1) * 255).round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
        pixels = self._processor([Image.fromarray(picture) for picture in bytes_], return_tensors="pt")["pixel_values"]
        with torch.no_grad(), unrounded():
            found = self._model(pixel_values=pixels.to(self._device))
        token = getattr(found, self._read)
        result: np.ndarray = (token if token.ndim == 2 else token[:, 0]).cpu().numpy().astype(np.float32)
        return result
