"""Models with a tower for pictures and one for texts, CLIP and SigLIP, each with its texts read as published."""

from __future__ import annotations

import string
from typing import TYPE_CHECKING, Any

import numpy as np

from loco_core.errors import ModelError
from loco_core.scoring.transformers_models import as_pictures, loading

if TYPE_CHECKING:
    import torch

MODEL_TYPES = ("clip", "siglip")
"""The ``model_type`` of models that are served; SigLIP 2 of one resolution calls itself ``siglip``."""


class TwoTowers:
    """A CLIP or SigLIP model in float32: unit embeddings of pictures and texts, and the scale of their cosines."""

    def __init__(self, path: str, revision: str | None, device: str) -> None:
        """Loads the model, its tokenizer and what scales its pictures.

        Raises:
            ModelError: no such model, not in safetensors, or neither CLIP nor SigLIP; weights or words are missing.
        """
        import torch
        from transformers import (
            AutoConfig,
            AutoTokenizer,
            CLIPImageProcessorPil,
            CLIPModel,
            SiglipImageProcessorPil,
            SiglipModel,
        )

        from loco_core.diffusion.hub import local_scorer
        from loco_core.diffusion.loading import check_words

        where = local_scorer(path, revision)
        options = {"trust_remote_code": False, "local_files_only": True}
        with loading(path, "a CLIP or SigLIP model"):
            self._kind = AutoConfig.from_pretrained(where, **options).model_type
            if self._kind not in MODEL_TYPES:
                raise ModelError(f"{path} holds a {self._kind} model; expected {' or '.join(MODEL_TYPES)}")
            made, processor = {
                "clip": (CLIPModel, CLIPImageProcessorPil), "siglip": (SiglipModel, SiglipImageProcessorPil)
            }[self._kind]  # fmt: skip
            self._model = made.from_pretrained(where, use_safetensors=True, dtype=torch.float32, **options)
            self._tokenizer = AutoTokenizer.from_pretrained(where, **options)
            self._processor = processor.from_pretrained(where, **options)
        check_words(self._tokenizer, path)
        self._model.to(device).eval()
        self._path, self._device = path, device
        self.scale = float(self._model.logit_scale.detach().exp())

    def embed_images(self, images: torch.Tensor) -> np.ndarray:
        """Returns float32 unit embeddings ``(n, width)``; a picture that is not finite embeds to not-a-number."""
        import torch

        from loco_core.diffusion.engine import unrounded

        pictures, finite = as_pictures(images)
        pixels = self._processor(pictures, return_tensors="pt")["pixel_values"].to(self._device)
        with torch.no_grad(), unrounded():
            pooled = self._model.vision_model(pixel_values=pixels).pooler_output
            projected = self._model.visual_projection(pooled) if self._kind == "clip" else pooled
            result = _unit(projected)
        result[~finite] = np.nan
        return result

    def embed_texts(self, texts: list[str]) -> np.ndarray:
        """Returns float32 unit embeddings ``(texts, width)``.

        Raises:
            ModelError: a text is longer than the model reads.
        """
        import torch

        rows = []
        # One at a time: the embedding of a text must not depend on which others are asked for with it.
        for text in texts:
            tokens = self._tokens(text)
            with torch.no_grad():
                pooled = self._model.text_model(**tokens).pooler_output
                rows.append(_unit(self._model.text_projection(pooled) if self._kind == "clip" else pooled)[0])
        return np.stack(rows)

    def _tokens(self, text: str) -> dict[str, Any]:
        """Returns a text as the model was trained to read it.

        CLIP reads up to the end of the text, whatever pads it (Radford et al., ICML 2021). SigLIP was trained on texts
        padded to full length without a mask (Zhai et al., ICCV 2023), lower-cased and, before SigLIP 2, without
        punctuation.
        """
        longest = self._model.config.text_config.max_position_embeddings
        if self._kind == "siglip":
            text = text.lower()
            # SigLIP 2 reads texts with the vocabulary of Gemma, punctuation and all.
            if not type(self._tokenizer).__name__.startswith("Gemma"):
                text = " ".join(text.translate(str.maketrans("", "", string.punctuation)).split())
        count = len(self._tokenizer(text)["input_ids"])
        if count > longest:
            raise ModelError(f'"{text}" has {count} tokens; {self._path} reads {longest}, expected a shorter text')
        padded = self._tokenizer(
            [text], padding="max_length", max_length=longest, truncation=True, return_tensors="pt"
        ).to(self._device)
        names = ("input_ids", "attention_mask") if self._kind == "clip" else ("input_ids",)
        return {name: padded[name] for name in names}


def _unit(rows: torch.Tensor) -> np.ndarray:
    import torch

    found: np.ndarray = torch.nn.functional.normalize(rows, dim=-1).cpu().numpy().astype(np.float32)
    return found
