"""Names a picture by what a vision-language model answers when it is asked, kind by kind.

Any model that ``AutoModelForImageTextToText`` and ``AutoProcessor`` of transformers load from safetensors. It is shown
a picture and a question with the class names as its answers. Nothing is generated: each answer is scored by its
likelihood after the question, the product of the probabilities of its tokens, so that no answer has to be read and none
is left out. Of two answers of which one begins the other, the shorter one is never less likely. A pass of the model a
picture and class makes it the slowest judge; ``kinds`` names those that matter. What a model of this kind says of
artists follows from what it was taught of them, which nobody has measured here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
from pydantic import Field

from loco_core.errors import ModelError, SpecError, did_you_mean
from loco_core.scoring.base import JudgeSettings, JudgeTask
from loco_core.scoring.probabilities import named_best, softmax
from loco_core.scoring.transformers_models import as_pictures, loading

if TYPE_CHECKING:
    import torch

QUESTION = "Which {kind} does this picture show?"


class Settings(JudgeSettings):
    """Settings.

    Attributes:
        abstain: least difference between the probabilities of the most likely answer and of the second; below it a
            picture is ``unsure``.
        questions: question by kind; default "Which KIND does this picture show?". The answers follow it.
        dtype: of the weights; ``auto`` takes that of the files.
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


class Judge:
    """See the module, and `loco_core.scoring.base.Judge`."""

    def __init__(self, path: str, revision: str | None, device: str, task: JudgeTask) -> None:
        """Loads the model and reads the answers.

        Raises:
            ModelError: it cannot be loaded, or reads two answers alike.
        """
        from transformers import AutoModelForImageTextToText, AutoProcessor

        from loco_core.diffusion.hub import local_scorer

        where, options = local_scorer(path, revision), {"trust_remote_code": False, "local_files_only": True}
        with loading(path, "a vision-language model"):
            self._processor = AutoProcessor.from_pretrained(where, **options)
            self._model = AutoModelForImageTextToText.from_pretrained(
                where, use_safetensors=True, dtype=task.settings.dtype, **options
            )
        self._model.to(device).eval()
        self._device, self._task = device, task
        self._prompts = {kind: self._prompt(kind) for kind in task.classes}
        self._answers = {kind: self._read(path, kind) for kind in task.classes}

    @property
    def kinds(self) -> tuple[str, ...]:
        """Kinds of attributes that it is asked about."""
        return tuple(self._answers)

    def embed_images(self, images: torch.Tensor) -> np.ndarray:
        """Returns the log-likelihoods of all answers, ``(n, classes of all kinds)``."""
        pictures, finite = as_pictures(images)
        width = sum(map(len, self._answers.values()))
        rows = [
            [value for kind in self._answers for value in self._likelihoods(picture, kind)]
            if fine
            else [np.nan] * width
            for picture, fine in zip(pictures, finite, strict=True)
        ]
        return np.array(rows, dtype=np.float32).reshape(len(pictures), width)

    def name(self, embeddings: np.ndarray, kind: str) -> list[str]:
        """Names the most likely answer of each picture, or ``unsure``."""
        first = 0
        for each, answers in self._answers.items():
            if each == kind:
                found = softmax(embeddings[:, first : first + len(answers)])
                return named_best(found, self._task.classes[kind].names, self._task.settings.abstain)
            first += len(answers)
        raise KeyError(kind)

    def said(self, text: str, kind: str) -> str | None:
        """Returns the class that a prompt says."""
        return self._task.classes[kind].said(text)

    def _prompt(self, kind: str) -> str:
        """Returns the question as the model was taught to read one, with the place of the picture."""
        question = self._task.settings.questions.get(kind, QUESTION.format(kind=kind))
        text = f"{question} Answer with one of these: {'; '.join(self._words(kind))}."
        if getattr(self._processor, "chat_template", None):
            said = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": text}]}]
            return str(self._processor.apply_chat_template(said, add_generation_prompt=True))
        return f"{self._processor.image_token}\n{text}\nAnswer:"

    def _words(self, kind: str) -> list[str]:
        return [name.replace("-", " ") for name in self._task.classes[kind].names]

    def _read(self, path: str, kind: str) -> list[Any]:
        import torch

        # After a word the answer is another word; after the end of a line it begins one.
        gap = "" if self._prompts[kind][-1:].isspace() else " "
        tokenizer = self._processor.tokenizer
        found = [tokenizer(gap + words, add_special_tokens=False)["input_ids"] for words in self._words(kind)]
        for number, ids in enumerate(found):
            if not ids or ids in found[:number]:
                words = self._words(kind)[number]
                raise ModelError(f'{path} reads the answer "{words}" like another one, or not at all; expected a '
                                 "model that knows the words")  # fmt: skip
        return [torch.tensor([ids]) for ids in found]

    def _likelihoods(self, picture: Any, kind: str) -> list[float]:
        import torch

        from loco_core.diffusion.engine import unrounded

        prompt = self._prompts[kind]
        # A template writes the first token itself.
        own = {"add_special_tokens": False} if getattr(self._processor, "chat_template", None) else {}
        batch = dict(self._processor(images=[picture], text=[prompt], return_tensors="pt", **own))
        ids, found = batch["input_ids"], []
        for answer in self._answers[kind]:
            whole = {name: self._longer(name, value, ids, answer).to(self._device) for name, value in batch.items()}
            whole = {n: v.to(self._model.dtype) if v.is_floating_point() else v for n, v in whole.items()}
            with torch.no_grad(), unrounded():
                logits = self._model(**whole).logits[0, -answer.shape[1] - 1 : -1].float()
            each = logits.log_softmax(-1).gather(1, answer[0, :, None].to(self._device))
            found.append(float(each.sum()))
        return found

    @staticmethod
    def _longer(name: str, value: torch.Tensor, ids: torch.Tensor, answer: torch.Tensor) -> torch.Tensor:
        """Returns what there is a value a token of with those of the answer behind; all else as it is."""
        import torch

        if value.shape != ids.shape:
            return value
        more = answer if name == "input_ids" else torch.full_like(answer, int(name == "attention_mask"))
        return torch.cat([value, more.to(value.dtype)], 1)
