"""The scorers, one file each: how well a picture fits a text.

A scorer file exports a class ``Scorer`` that fulfils :class:`Scorer`, built from a name and a device.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np

from loco_core import registry
from loco_core.quiet import quiet_libraries

if TYPE_CHECKING:
    import torch

WEIGHTS = Path(__file__).parent.parent / "toyworld" / "weights"
JUDGE = "toy-judge"
CLIP = "toy-clip"
BUNDLED = {CLIP: WEIGHTS / "clip", JUDGE: WEIGHTS / "judge"}


class Scorer(Protocol):
    """Scores pictures against texts in two steps, so that new texts can be scored later without the pictures."""

    def embed_images(self, images: torch.Tensor) -> np.ndarray:
        """Returns float32 embeddings ``(n, width)`` of pictures ``(n, 3, height, width)`` in [0, 1]."""

    def score(self, embeddings: np.ndarray, texts: list[str]) -> np.ndarray:
        """Returns float64 scores ``(n, texts)``, larger where the picture fits the text better."""


def load_scorer(name: str, revision: str | None, device: str) -> Scorer:
    """Loads the bundled judge, the bundled CLIP model, or any transformers CLIP model.

    Args:
        name: ``toy-judge``, ``toy-clip``, a hub id or a folder.
        revision: the hub's commit; None for a folder or a bundled model.
        device: e.g. ``cuda`` or ``cpu``.

    Raises:
        ModelError: it cannot be loaded.
    """
    quiet_libraries()
    module = registry.load("scorers", "judge" if name == JUDGE else "clip")
    scorer: Scorer = module.Scorer(str(BUNDLED.get(name, name)), revision, device)
    return scorer
