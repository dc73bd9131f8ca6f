"""Names a picture by what a vision-language model answers when it is asked, kind by kind.

Any model that ``AutoModelForImageTextToText`` and ``AutoProcessor`` of transformers load from safetensors, and that
reads from left to right. It is shown a picture and a question with the classes as its answers. Nothing is generated:
each answer is scored by its likelihood after the question, the product of the probabilities of its tokens and of the
end of the answer, so that no answer has to be read and none is left out. The answers are offered in both orders, and
the log-likelihoods averaged: such models favour places of a list. What words are likely without any picture is not
taken out. Two passes of the model per picture and class make it the slowest judge; ``kinds`` names those that matter.
What a model of this kind says of artists follows from what it was taught of them, which nobody has measured here.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
from pydantic import Field

from loco_core.errors import ModelError, SpecError, did_you_mean
from loco_core.scoring.base import JudgeSettings, JudgeTask
from loco_core.scoring.probabilities import named_best, softmax
from loco_core.scoring.transformers_models import as_pictures, loading

if TYPE_CHECKING:
    import torch

QUESTION = "Which of these does this picture show?"
BLANK = 64
"""Side of the picture on which the answers are read once, so that what cannot be asked is refused at the start."""
PER_TOKEN = ("input_ids", "attention_mask", "mm_token_type_ids", "token_type_ids")


class Settings(JudgeSettings):
    """Settings.

    Attributes:
        abstain: least difference between the probabilities of the most likely answer and of the second; below it a
            picture is ``unsure``.
        questions: question by kind; default "Which of these does this picture show?". The answers follow it.
        dtype: number format of the weights; ``auto`` takes that of the files.
    """

    abstain: Annotated[float, Field(ge=0, le=1)] = 0.1
    questions: dict[str, str] = Field(default_factory=dict)
    dtype: Literal["auto", "float32", "float16", "bfloat16"] = "auto"


def check(task: JudgeTask) -> None:
    """Refuses a question about a kind that it is not asked about.

    Raises:
        SpecError: there is one.
    """
    for kind in task.settings.questions:
        if kind not in task.classes:
            error = SpecError(f'vqa: questions names the kind "{kind}"{did_you_mean(kind, task.classes)}')
            error.loc = ("questions",)
            raise error


def passes(task: JudgeTask) -> int:
    """Returns how many times a picture is read: each answer in two orders of the answers."""
    return 2 * sum(len(found.classes) for found in task.classes.values())


class Judge:
    """See the module, and `loco_core.scoring.base.Judge`."""

    def __init__(self, path: str, revision: str | None, device: str, task: JudgeTask) -> None:
        """Loads the model and reads the answers.

        Raises:
            ModelError: it cannot be loaded, reads two answers alike, or does not read from left to right.
        """
        from PIL import Image
        from transformers import AutoModelForImageTextToText, AutoProcessor

        from loco_core.diffusion.hub import local_scorer

        where, options = local_scorer(path, revision), {"trust_remote_code": False, "local_files_only": True}
        self._device, self._task, self._path = device, task, path
        with loading(path, "a vision-language model"):
            self._processor = AutoProcessor.from_pretrained(where, **options)
            self._model = AutoModelForImageTextToText.from_pretrained(
                where, use_safetensors=True, dtype=task.settings.dtype, **options
            )
            if self._model.config.is_encoder_decoder:
                raise ModelError(f"{path} reads the question and writes the answer by two models; expected a vision-"
                                 "language model that does both by one")  # fmt: skip
            self._model.to(device).eval()
            ends = self._model.generation_config.eos_token_id or self._processor.tokenizer.eos_token_id
            self._ends = list(ends) if isinstance(ends, list | tuple) else [ends]
            self._prompts = {kind: (self._prompt(kind, 1), self._prompt(kind, -1)) for kind in task.classes}
            blank = Image.new("RGB", (BLANK, BLANK))
            for kind, (prompt, _) in self._prompts.items():
                self._check(kind, [batch["input_ids"] for _, batch in self._read(blank, prompt, kind)])

    @property
    def kinds(self) -> tuple[str, ...]:
        """Kinds of attributes that it is asked about."""
        return tuple(self._prompts)

    def embed_images(self, images: torch.Tensor) -> np.ndarray:
        """Returns the log-likelihoods of all answers, ``(n, classes of all kinds)``."""
        pictures, finite = as_pictures(images)
        width = sum(len(self._words(kind)) for kind in self._prompts)
        rows = [
            [value for kind in self._prompts for value in self._likelihoods(picture, kind)]
            if fine
            else [np.nan] * width
            for picture, fine in zip(pictures, finite, strict=True)
        ]
        return np.array(rows, dtype=np.float32).reshape(len(pictures), width)

    def name(self, embeddings: np.ndarray, kind: str) -> list[str]:
        """Names the most likely answer of each picture, or ``unsure``."""
        kinds = list(self._prompts)
        first = sum(len(self._words(each)) for each in kinds[: kinds.index(kind)])
        names = self._task.classes[kind].names
        return named_best(softmax(embeddings[:, first : first + len(names)]), names, self._task.settings.abstain)

    def said(self, text: str, kind: str) -> str | None:
        """Returns the class that a prompt says."""
        return self._task.classes[kind].said(text)

    def _prompt(self, kind: str, order: int) -> str:
        """Returns the question as the model was taught to read one, with the place of the picture.

        Args:
            kind: kind that is asked about.
            order: 1 offers the answers in the order of the classes, -1 in the opposite one.
        """
        question = self._task.settings.questions.get(kind, QUESTION)
        text = f"{question} Answer with one of these: {'; '.join(self._words(kind)[::order])}."
        if getattr(self._processor, "chat_template", None):
            said = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": text}]}]
            return str(self._processor.apply_chat_template(said, add_generation_prompt=True))
        return f"{self._processor.image_token}\n{text}\nAnswer:"

    def _words(self, kind: str) -> list[str]:
        return [item.label for item in self._task.classes[kind].classes]

    def _check(self, kind: str, answers: list[Any]) -> None:
        """Refuses answers that are the same tokens."""
        found = [tuple(ids[0].tolist()) for ids in answers]
        for number, ids in enumerate(found):
            if ids in found[:number]:
                raise ModelError(f'{self._path} reads the answer "{self._words(kind)[number]}" like another one; '
                                 "expected a model that knows the words")  # fmt: skip

    def _read(self, picture: Any, prompt: str, kind: str) -> Iterator[tuple[int, dict[str, torch.Tensor]]]:
        """Yields what the model reads of each class, the question with its answer, and how much of it is the question.

        Question and answer are read as one text: alone, an answer may become other tokens than behind the question.

        Raises:
            ModelError: the question is read in another way with an answer behind, or tokens have values that this
                judge does not know.
        """
        # After a word the answer is another word; after the end of a line it begins one.
        gap = "" if prompt[-1:].isspace() else " "
        asked = self._batch(picture, prompt)["input_ids"]
        for words in self._words(kind):
            batch = self._batch(picture, f"{prompt}{gap}{words}")
            ids, begin = batch["input_ids"], asked.shape[1]
            if ids.shape[1] <= begin or not bool((ids[:, :begin] == asked).all()):
                raise ModelError(f'{self._path} reads its question in another way once "{words}" stands behind it, or '
                                 "does not read the answer; expected a model that knows the words")  # fmt: skip
            yield begin, batch

    def _batch(self, picture: Any, text: str) -> dict[str, torch.Tensor]:
        """Returns what the processor makes of a picture and a text, without an end of the text."""
        tokenizer = self._processor.tokenizer
        # As transformers itself does: a template may write the first token, or leave it to the tokenizer.
        begun = bool(tokenizer.bos_token) and text.startswith(tokenizer.bos_token)
        batch = dict(self._processor(images=[picture], text=[text], return_tensors="pt", add_special_tokens=not begun))
        ids = batch["input_ids"]
        # Some tokenizers end every text.
        length = ids.shape[1] - int(not begun and int(ids[0, -1]) == tokenizer.eos_token_id)
        for name, value in batch.items():
            if value.shape == ids.shape and name not in PER_TOKEN:
                raise ModelError(f"{self._path} takes {name} of every token, which this judge does not know; expected "
                                 "another vision-language model")  # fmt: skip
        types = batch.get("token_type_ids")
        if types is not None and not bool(types.any()):
            raise ModelError(f"{self._path} reads a question in both directions, so that an answer behind it would be "
                             "seen before it is given; expected a model that reads from left to right")  # fmt: skip
        return {name: value[:, :length] if value.shape == ids.shape else value for name, value in batch.items()}

    def _likelihoods(self, picture: Any, kind: str) -> list[float]:
        """Returns the log-likelihood of every answer about one picture, the mean of both orders."""
        import torch

        from loco_core.diffusion.engine import unrounded

        found = []
        for prompt in self._prompts[kind]:
            row = []
            for begin, batch in self._read(picture, prompt, kind):
                answer = batch["input_ids"][0, begin:, None].to(self._device)
                whole = {n: v.to(self._model.dtype) if v.is_floating_point() else v for n, v in batch.items()}
                with torch.no_grad(), unrounded():
                    logits = self._model(**{n: v.to(self._device) for n, v in whole.items()}).logits
                # Each position tells the next token; the last one tells the end.
                told = logits[0, begin - 1 :].float().log_softmax(-1)
                row.append(float(told[:-1].gather(1, answer).sum() + told[-1, self._ends].logsumexp(0)))
            found.append(row)
        return [sum(values) / len(values) for values in zip(*found, strict=True)]
