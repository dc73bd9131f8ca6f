"""What is asked of pictures: the scorers say how well one fits a text, the judges what one shows; one file each.

A scorer's file exports a class ``Scorer`` that fulfils :class:`Scorer`, a judge's file a class ``Judge`` that fulfils
:class:`Judge`; both are built from a path, a revision and a device. Its key is what a sweep calls it. A file may say:

- ``WEIGHTS``: folder or hub id of its weights, which becomes the path; empty where it has none;
- ``TOKENIZED`` (scorers): whether a tokenizer beside the weights tells how much of a text is read. Longer texts are
  refused before anything is drawn.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np

from loco_core import plugins
from loco_core.quiet import quiet_libraries

if TYPE_CHECKING:
    import torch

OF_FOLDERS = "clip"
"""The scorer of models that a sweep names by their folder or hub id."""
UNKNOWN = ("other", "unsure")
"""What a judge says where it names no class."""


class Scorer(Protocol):
    """Scores pictures against texts in two steps, so that new texts can be scored later without the pictures."""

    def embed_images(self, images: torch.Tensor) -> np.ndarray:
        """Returns float32 embeddings ``(n, width)`` of pictures ``(n, 3, height, width)`` in [0, 1]."""

    def score(self, embeddings: np.ndarray, texts: list[str]) -> np.ndarray:
        """Returns float64 scores ``(n, texts)``, larger where the picture fits the text better."""


class Judge(Protocol):
    """Names what a picture shows, kind by kind; edits are measured by it."""

    @property
    def kinds(self) -> tuple[str, ...]:
        """Kinds of attributes that it sees, e.g. ``style``."""

    def embed_images(self, images: torch.Tensor) -> np.ndarray:
        """Returns float32 ``(n, width)`` of pictures ``(n, 3, height, width)`` in [0, 1]; all that `name` needs."""

    def name(self, embeddings: np.ndarray, kind: str) -> list[str]:
        """Names what each picture shows of one kind.

        ``other`` is none of the classes that it knows, and ``unsure`` is where it abstains.
        """

    def said(self, text: str, kind: str) -> str | None:
        """Returns the class of a kind that a prompt says; None where it says nothing of it."""


def margin_of(scores: np.ndarray) -> tuple[float, float]:
    """Returns what a picture's margin is the difference of: the attribute's own score, and what it is taken against.

    The latter is the largest score of the other texts: below it the picture looks like something else, whatever that
    is. A log-mean-exp decides no better (see the page on the margin), and its sign means less.

    Args:
        scores: of one picture ``(1 + texts,)``: with ``score_text``, and with the texts of
            `loco_core.types.PromptRecord.against`.
    """
    return float(scores[0]), float(np.max(scores[1:]))


def find_scorer(name: str) -> tuple[str, str]:
    """Finds what a sweep means by a scorer's name.

    Args:
        name: a key of the plug-in group, a Python file, or a CLIP model's hub id or folder.

    Returns:
        the key of the plug-in, and what its weights are read from; empty where it has none.

    Raises:
        SpecError: there is no such file.
    """
    if name.endswith(".py") or name in named_scorers():
        return name, _weights("scorers", name)
    return OF_FOLDERS, name


def made_for(name: str) -> int:
    """Returns the side in pixels of the only pictures that a scorer knows, the ``SIDE`` of its module; 0 where all.

    Args:
        name: as of :func:`find_scorer`.
    """
    return int(getattr(plugins.load("scorers", find_scorer(name)[0]), "SIDE", 0))


def named_scorers() -> tuple[str, ...]:
    """Returns the keys of scorers that sweeps name by their key."""
    return tuple(key for key in plugins.keys("scorers") if key != OF_FOLDERS)


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
    scorer: Scorer = plugins.function("scorers", key, "Scorer")(path, revision, device)
    return scorer


def load_judge(name: str, device: str) -> Judge:
    """Loads a judge.

    Args:
        name: a key of the plug-in group, or a Python file.
        device: e.g. ``cuda`` or ``cpu``.

    Raises:
        ModelError: it cannot be loaded.
        SpecError: there is no such file, or it has no ``Judge``.
    """
    quiet_libraries()
    judge: Judge = plugins.function("judges", name, "Judge")(_weights("judges", name), None, device)
    return judge


def judge_id(name: str) -> str:
    """Returns what a judge is called in results; that of an outside one tells one version of its code from another.

    Raises:
        SpecError: there is no such judge.
    """
    code = plugins.source("judges", name)
    own = Path(name).stem if name.endswith(".py") else name
    return f"{own}@{hashlib.sha256(code).hexdigest()[:8]}" if code else own


def _weights(group: str, key: str) -> str:
    return str(getattr(plugins.load(group, key), "WEIGHTS", ""))
