"""The bundled judge: a classifier of object, colour, style and fact that shares nothing with CLIP."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from loco_core.errors import ModelError, SpecError
from loco_core.toyworld import WEIGHTS as _WEIGHTS

if TYPE_CHECKING:
    import torch

WEIGHTS = _WEIGHTS / "judge"
UNSURE = "unsure"


class Judge:
    """Names what pictures show; as a scorer its score of a text is the probability of the classes that the text names.

    A class is a name of the kind, ``none`` or ``other``; below the calibrated confidence it is ``unsure``.
    """

    def __init__(self, path: str, revision: str | None, device: str) -> None:
        """Loads the classifier.

        Raises:
            ModelError: it cannot be loaded.
        """
        import torch
        from transformers import ResNetForImageClassification

        from loco_core.diffusion.loading import noted, reason_of
        from loco_core.toyworld.training.judge import CLASSES, heads
        from loco_core.toyworld.world import KINDS, PLAIN

        try:
            with noted() as parts:
                self._model = ResNetForImageClassification.from_pretrained(
                    path, revision=revision, use_safetensors=True, dtype=torch.float32, trust_remote_code=False
                )
        except Exception as error:  # a damaged folder makes libraries raise anything
            raise ModelError(f"cannot load the judge from {path}: {reason_of(error)}") from error
        for part in parts:
            part.check()
        self._model.to(device).eval()
        self._device = device
        self._abstain_below: dict[str, float] = self._model.config.abstain_below
        self._names, self._classes, self._spans = KINDS, CLASSES, heads()
        self._plain = KINDS["style"][PLAIN]

    def embed_images(self, images: torch.Tensor) -> np.ndarray:
        """Returns the probabilities of all classes of all kinds, ``(n, classes)``."""
        import torch

        from loco_core.diffusion.engine import unrounded
        from loco_core.toyworld.training.judge import upscale

        finite = images.isfinite().all(dim=(1, 2, 3))
        with torch.no_grad(), unrounded():
            scaled = (images.nan_to_num() * 2 - 1).to(self._device)
            logits = self._model(pixel_values=upscale(scaled)).logits
            parts = [logits[:, span].softmax(1) for span in self._spans.values()]
            result: np.ndarray = torch.cat(parts, 1).cpu().numpy().astype(np.float32)
        result[~finite.numpy()] = np.nan
        return result

    def score(self, embeddings: np.ndarray, texts: list[str]) -> np.ndarray:
        """Returns the joint probability ``(n, texts)`` of the classes named in each text; 1 where it names none.

        Raises:
            SpecError: a text has a style word that the judge does not know, so that its score would mean nothing.
        """
        result = np.ones((len(embeddings), len(texts)))
        for column, text in enumerate(texts):
            for kind, names in self._names.items():
                for index, name in enumerate(names):
                    if name in text.split():
                        result[:, column] *= embeddings[:, self._spans[kind].start + index]
            if "style" in text.split() and not any(name in text.split() for name in self._names["style"]):
                raise SpecError(f'the judge knows none of the words of "{text}"; it scores the bundled world only')
        return result

    @property
    def kinds(self) -> tuple[str, ...]:
        """Kinds of attributes that it sees."""
        return tuple(self._names)

    def said(self, text: str, kind: str) -> str | None:
        """Returns what a caption of the bundled world says of a kind; without style words that is ``plain``."""
        named = [name for name in self._names[kind] if name in text.split()]
        return named[0] if named else self._plain if kind == "style" else None

    def name(self, embeddings: np.ndarray, kind: str) -> list[str]:
        """Names what each picture shows of one kind; ``unsure`` below the calibrated confidence."""
        probabilities = embeddings[:, self._spans[kind]]
        best, confidence = probabilities.argmax(1), probabilities.max(1)
        sure = confidence >= self._abstain_below[kind]
        return [self._classes[kind][i] if ok else UNSURE for i, ok in zip(best, sure, strict=True)]


Scorer = Judge
