"""Names the word that a picture shows by reading it: for attributes whose pictures are to show a text.

A model of transformers that reads print or handwriting from a picture, such as TrOCR (Li et al., AAAI 2023), loaded as
``VisionEncoderDecoderModel``. TrOCR reads **one line** that fills the picture: it finds no text in a scene, reads one
of several lines at most, and writes something of any picture, text or not. So it is fit for attributes that draw a word
large and alone; of signs in a street its word is worth little. Below a mean probability of what it read it abstains.

The word of a class stands in quotation marks in its text (``score_text: 'the word "open"'``), or else is its name. A
donor text without such marks ("a blank sign") is what a picture shows in which nothing is read; a word that is none of
the classes' is ``other``. A model that makes words up where there are none will rather be unsure: then a removed text
counts as kept by nobody and as gone by nobody.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
from pydantic import Field

from loco_core.scoring.base import JudgeSettings, JudgeTask, Kinds
from loco_core.scoring.classes import KindClasses
from loco_core.scoring.transformers_models import as_pictures, loading

if TYPE_CHECKING:
    import torch

MODEL_TYPES = ("vision-encoder-decoder",)
_QUOTED = re.compile("[\"“”]([^\"“”]+)[\"“”]|(?<!\\w)['‘]([^'‘’]+)['’](?!\\w)")


class Settings(JudgeSettings):
    """Settings.

    Attributes:
        kinds: kinds whose attributes are words.
        least: least accuracy at which a word counts as the one that was read; 1 wants every letter.
        abstain: mean probability of the tokens read below which a picture is ``unsure``.
        longest: most tokens that are read.
    """

    kinds: Kinds = ("text",)
    least: Annotated[float, Field(gt=0, le=1)] = 0.8
    abstain: Annotated[float, Field(ge=0, le=1)] = 0.5
    longest: Annotated[int, Field(ge=1, le=512)] = 32


def accuracy(read: str, asked: str) -> float:
    """Returns the share of letters that were read rightly: 1 less the edit distance per letter of the longer text.

    Case, punctuation and spaces do not count.

    Args:
        read: text that was read.
        asked: text that was asked for.
    """
    one, other = (re.sub(r"[\W_]+", "", text.casefold()) for text in (read, asked))
    before = list(range(len(other) + 1))
    for row, letter in enumerate(one, 1):
        now = [row]
        for column, wanted in enumerate(other, 1):
            now.append(min(before[column] + 1, now[-1] + 1, before[column - 1] + (letter != wanted)))
        before = now
    longer = max(len(one), len(other))
    return 1 - before[-1] / longer if longer else 1.0


def words_of(found: KindClasses) -> tuple[str, ...]:
    """Returns the word of every class of a kind, empty of one that shows none."""
    words = []
    for number, item in enumerate(found.classes):
        quoted = _QUOTED.search(item.text)
        name = item.name.replace("-", " ") if number < found.attributes else ""
        words.append(next(part for part in quoted.groups() if part) if quoted else name)
    return tuple(words)


class Judge:
    """See the module, and `loco_core.scoring.base.Judge`."""

    def __init__(self, path: str, revision: str | None, device: str, task: JudgeTask) -> None:
        """Loads the model.

        Raises:
            ModelError: it cannot be loaded, or is no such model.
        """
        import torch
        from transformers import AutoImageProcessor, AutoTokenizer, VisionEncoderDecoderModel

        from loco_core.diffusion.hub import local_scorer

        where, options = local_scorer(path, revision), {"trust_remote_code": False, "local_files_only": True}
        with loading(path, "a model that reads text (VisionEncoderDecoder)"):
            self._model = VisionEncoderDecoderModel.from_pretrained(
                where, use_safetensors=True, dtype=torch.float32, **options
            )
            self._tokenizer = AutoTokenizer.from_pretrained(where, **options)
            self._processor = AutoImageProcessor.from_pretrained(where, backend="pil", **options)
        self._model.to(device).eval()
        self._device, self._task = device, task
        self._words = {kind: words_of(found) for kind, found in task.classes.items()}

    @property
    def kinds(self) -> tuple[str, ...]:
        """Kinds whose attributes are words."""
        return tuple(self._words)

    def embed_images(self, images: torch.Tensor) -> np.ndarray:
        """Returns the accuracy of what was read for each word of each kind, and last the mean probability of it."""
        pictures, finite = as_pictures(images)
        rows = []
        for picture, fine in zip(pictures, finite, strict=True):
            read, sure = self.read(picture) if fine else ("", np.nan)
            rows.append([accuracy(read, word) for words in self._words.values() for word in words] + [sure])
        return np.array(rows, dtype=np.float32)

    def read(self, picture: Any) -> tuple[str, float]:
        """Reads one picture, token by token the most likely one.

        Args:
            picture: a PIL picture.

        Returns:
            the text, and the mean (geometric) probability of its tokens; 0 where there are none.
        """
        import torch

        from loco_core.diffusion.engine import unrounded

        pixels = self._processor([picture], return_tensors="pt")["pixel_values"].to(self._device)
        with torch.no_grad(), unrounded():
            found = self._model.generate(
                pixel_values=pixels, do_sample=False, num_beams=1, max_new_tokens=self._task.settings.longest,
                output_logits=True, return_dict_in_generate=True,
            )  # fmt: skip
        tokens = found.sequences[0, -len(found.logits) :]
        logs = [float(each[0].float().log_softmax(-1)[token]) for each, token in zip(found.logits, tokens, strict=True)]
        text = str(self._tokenizer.decode(tokens, skip_special_tokens=True))
        return text, float(np.exp(np.mean(logs))) if logs else 0.0

    def name(self, embeddings: np.ndarray, kind: str) -> list[str]:
        """Names the word that was read; ``other`` where it is none of the classes', ``unsure`` where it is unsure."""
        kinds = list(self._words)
        first = sum(len(self._words[each]) for each in kinds[: kinds.index(kind)])
        names, found = self._task.classes[kind].names, []
        for row in embeddings:
            seen = row[first : first + len(names)]
            best = int(seen.argmax())
            # Of two words that are as near nobody knows which was meant.
            if not row[-1] >= self._task.settings.abstain or ((seen == seen[best]).sum() > 1 and seen[best] > 0):
                found.append("unsure")
            else:
                found.append(names[best] if seen[best] >= self._task.settings.least else "other")
        return found

    def said(self, text: str, kind: str) -> str | None:
        """Returns the class of the word that a prompt says."""
        return self._task.classes[kind].said(text)
