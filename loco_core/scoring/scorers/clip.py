"""CLIP score: the cosine of a picture's and a text's embedding (Hessel et al., EMNLP 2021, without the factor 2.5)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from loco_core.errors import ModelError
from loco_core.scoring.transformers_models import as_pictures

if TYPE_CHECKING:
    import torch

TOKENIZED = True


class Scorer:
    """Any transformers CLIP model, in float32."""

    def __init__(self, path: str, revision: str | None, device: str) -> None:
        """Loads the model and its processor.

        Raises:
            ModelError: no such model, not in safetensors, or not a CLIP model; weights or a vocabulary are missing.
        """
        import torch
        from transformers import AutoTokenizer, CLIPImageProcessorPil, CLIPModel

        from loco_core.diffusion.hub import local_scorer
        from loco_core.diffusion.loading import check_words, noted, reason_of

        where = local_scorer(path, revision)
        try:
            with noted() as parts:
                self._model = CLIPModel.from_pretrained(
                    where, revision=revision, use_safetensors=True, dtype=torch.float32, trust_remote_code=False
                )
            self._tokenizer = AutoTokenizer.from_pretrained(where, revision=revision, trust_remote_code=False)
            self._processor = CLIPImageProcessorPil.from_pretrained(where, revision=revision, trust_remote_code=False)
        except Exception as error:  # a damaged folder makes libraries raise anything
            raise ModelError(f"cannot load {path} as a CLIP model from safetensors: {reason_of(error)}") from error
        for part in parts:
            part.check()
        check_words(self._tokenizer, path)
        self._model.to(device).eval()
        self._device = device
        self._texts: dict[str, np.ndarray] = {}

    def embed_images(self, images: torch.Tensor) -> np.ndarray:
        """Returns unit embeddings ``(n, width)``; a picture that is not finite embeds to not-a-number."""
        import torch

        from loco_core.diffusion.engine import unrounded

        pictures, finite = as_pictures(images)
        pixels = self._processor(pictures, return_tensors="pt")["pixel_values"]
        with torch.no_grad(), unrounded():
            vision = self._model.vision_model(pixel_values=pixels.to(self._device))
            embeds = torch.nn.functional.normalize(self._model.visual_projection(vision.pooler_output), dim=-1)
        result: np.ndarray = embeds.cpu().numpy().astype(np.float32)
        result[~finite] = np.nan
        return result

    def score(self, embeddings: np.ndarray, texts: list[str]) -> np.ndarray:
        """Returns cosines ``(n, texts)``."""
        new = [text for text in dict.fromkeys(texts) if text not in self._texts]
        if new:
            self._texts.update(zip(new, self._embed_texts(new), strict=True))
        # One product a text: a product with all texts at once rounds differently with their number.
        images = embeddings.astype(np.float64)
        return np.stack([images @ self._texts[text] for text in texts], axis=1)

    def _embed_texts(self, texts: list[str]) -> np.ndarray:
        import torch

        rows = []
        with torch.no_grad():
            for text in texts:
                # One at a time: the embedding of a text must not depend on which others are asked for with it.
                tokens = self._tokenizer([text], padding="max_length", truncation=True, return_tensors="pt").to(
                    self._device
                )
                hidden = self._model.text_model(input_ids=tokens["input_ids"], attention_mask=tokens["attention_mask"])
                rows.append(torch.nn.functional.normalize(self._model.text_projection(hidden.pooler_output), dim=-1)[0])
        return torch.stack(rows).cpu().numpy().astype(np.float64)
