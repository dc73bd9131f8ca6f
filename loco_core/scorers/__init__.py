"""The scorers, one file each: how well a picture fits a text.

A scorer file exports a class ``Scorer`` that fulfils :class:`Scorer`, built from a path, a revision and a device. Its
key is what a sweep calls it; where it has weights, ``WEIGHTS`` says their folder or hub id, which becomes the path.
``clip`` and ``judge`` are named by their weights instead.
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


def find_scorer(name: str) -> tuple[str, str]:
    """Finds what a sweep means by a scorer's name.

    Args:
        name: of a bundled scorer, a key of the drawer, a Python file, or a CLIP model's hub id or folder.

    Returns:
        the key of its file in the drawer, and what its weights are read from; empty where it has none.

    Raises:
        SpecError: there is no such file.
    """
    if name in BUNDLED:
        return ("judge" if name == JUDGE else "clip"), str(BUNDLED[name])
    if name.endswith(".py") or name in named_scorers():
        return name, str(getattr(registry.load("scorers", name), "WEIGHTS", ""))
    return "clip", name


def named_scorers() -> tuple[str, ...]:
    """Returns the keys of scorers that sweeps name by their key."""
    return tuple(key for key in registry.keys("scorers") if key not in ("clip", "judge"))


def load_scorer(name: str, revision: str | None, device: str) -> Scorer:
    """Loads a scorer.

    Args:
        name: as of :func:`find_scorer`.
        revision: the hub's commit; None for a folder, a bundled model, or no weights.
        device: e.g. ``cuda`` or ``cpu``.

    Raises:
        ModelError: it cannot be loaded.
        SpecError: there is no such file, or it has no ``Scorer``.
    """
    quiet_libraries()
    key, path = find_scorer(name)
    scorer: Scorer = registry.function("scorers", key, "Scorer")(path, revision, device)
    return scorer
