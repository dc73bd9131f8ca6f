"""Names a picture by the class text that a second CLIP or SigLIP model finds it nearest to.

Zero-shot classification (Radford et al., ICML 2021, 3.1): the probabilities of the classes are the softmax of the
model's scale times the cosines of picture and class texts. The bias of SigLIP (Zhai et al., ICCV 2023) is the same for
all classes and cancels. What it knows of a class is what these models know: of an artist whom it never saw a picture
of, its word is worth nothing. It is no scorer's twin: a sweep refuses the weights that its scores come from.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import numpy as np
from pydantic import Field

from loco_core.scoring.base import JudgeSettings, JudgeTask
from loco_core.scoring.probabilities import named_best, softmax
from loco_core.scoring.two_towers import MODEL_TYPES as _SERVED
from loco_core.scoring.two_towers import TwoTowers

if TYPE_CHECKING:
    import torch

MODEL_TYPES = _SERVED


class Settings(JudgeSettings):
    """Settings.

    Attributes:
        abstain: least difference between the probabilities of the best class and of the second; below it a picture is
            ``unsure``.
    """

    abstain: Annotated[float, Field(ge=0, le=1)] = 0.1


class Judge:
    """See the module, and `loco_core.scoring.base.Judge`."""

    def __init__(self, path: str, revision: str | None, device: str, task: JudgeTask) -> None:
        """Loads the model and reads the class texts.

        Raises:
            ModelError: it is neither CLIP nor SigLIP, cannot be loaded, or does not read all of a class text.
        """
        self._towers, self._task = TwoTowers(path, revision, device), task
        self._texts = {
            kind: self._towers.embed_texts([item.text for item in found.classes]).astype(np.float64)
            for kind, found in task.classes.items()
        }

    @property
    def kinds(self) -> tuple[str, ...]:
        """Kinds of attributes that it is asked about."""
        return tuple(self._texts)

    def embed_images(self, images: torch.Tensor) -> np.ndarray:
        """Returns unit embeddings of pictures ``(n, width)``."""
        return self._towers.embed_images(images)

    def probabilities(self, embeddings: np.ndarray, kind: str) -> np.ndarray:
        """Returns the probabilities ``(n, classes)`` of the classes of a kind, in their order."""
        # One product a class: a product with all pictures at once rounds differently with their number.
        cosines = [(embeddings.astype(np.float64) * text).sum(1) for text in self._texts[kind]]
        return softmax(self._towers.scale * np.stack(cosines, axis=1))

    def name(self, embeddings: np.ndarray, kind: str) -> list[str]:
        """Names the most probable class of each picture, or ``unsure``."""
        return named_best(
            self.probabilities(embeddings, kind), self._task.classes[kind].names, self._task.settings.abstain
        )

    def said(self, text: str, kind: str) -> str | None:
        """Returns the class that a prompt says."""
        return self._task.classes[kind].said(text)
