"""Tokens whose embeddings are free: vectors that stand in texts where no word does, and that attacks learn.

A text has a `SLOT` for each of them. It is encoded with some word in every slot, and where the encoder looks that word
up it is given the vector instead. Hence neither tokenizer nor vocabulary changes, whatever kind they are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch

from loco_core.attacking.base import AttackTask, LearningSettings
from loco_core.attacking.learning import family_of, frozen, learn
from loco_core.diffusion.model import LoadedModel, PromptEmbeds
from loco_core.errors import ModelError

SLOT = "\N{WHITE SQUARE}"
_WORDS = ("a", "the", "of", "in", "and", "is", "on")
"""Words of which two are looked for that any tokenizer has as one token: where texts with them differ are the slots."""


class FreeTokens:
    """Vectors in place of tokens.

    Attributes:
        vectors: ``(tokens, width)`` float32, in the place of the slots of a text, first to last.
        spread: standard deviation of the coordinates of the vocabulary, which learning rates are shares of.
    """

    def __init__(self, model: LoadedModel, tokens: int) -> None:
        """Begins with vectors of a common word.

        Args:
            model: a model of one text encoder.
            tokens: how many.

        Raises:
            ModelError: it has several text encoders, or no two common words that it reads as one token each.
        """
        encoders = tuple(model.facts.traced_encoders)
        if len(encoders) != 1:
            raise ModelError(f"free tokens are read by one text encoder; the model has {len(encoders)}")
        encoder: Any = getattr(model.pipeline, encoders[0])
        self._model, self._table = model, encoder.get_input_embeddings()
        # Some encoders look tokens up in a module of their own that shares the vocabulary.
        self._lookups = [
            part
            for part in encoder.modules()
            if isinstance(part, torch.nn.Embedding) and part.weight is self._table.weight
        ]
        self._places: dict[str, torch.Tensor] = {}
        self._word, self._other, token = _words(model)
        held = self._table.weight.detach().float()
        self.spread = float(held.std())
        self.vectors = held[token].repeat(tokens, 1).clone().requires_grad_(True)

    def encode(self, texts: Sequence[str]) -> PromptEmbeds:
        """Encodes texts with slots, and others as they are.

        Raises:
            ModelError: a text is too long, or a slot is read together with its neighbours.
        """
        where = torch.stack([self._slots(text) for text in texts])
        family = family_of(self._model)
        with self._given(where):
            return family.read(self._model.pipeline, [text.replace(SLOT, self._word) for text in texts])

    def learn(self, task: AttackTask, settings: LearningSettings, rate: float, texts: Sequence[str]) -> None:
        """Learns the vectors on the clean pictures of a task, with no weight of the model.

        Args:
            task: the clean pictures, and the seed.
            settings: how long.
            rate: learning rate, as a share of `spread`.
            texts: texts with slots, one per clean picture.
        """
        with frozen(self._model):
            learn(
                self._model, task, settings, rate * self.spread, [self.vectors],
                lambda numbers: self.encode([texts[i] for i in numbers]),
            )  # fmt: skip

    def _slots(self, text: str) -> torch.Tensor:
        """Returns ``(tokens,)`` the number of the vector that stands at each position, from 1; 0 where none does."""
        if text not in self._places:
            both = [text.replace(SLOT, word) for word in (self._word, self._other)]
            ids = family_of(self._model).encode(self._model.pipeline, both).ids
            differs = ids[0] != ids[1]
            if int(differs.sum()) != text.count(SLOT):
                raise ModelError(f'a free token is read together with its neighbours in "{text}"')
            self._places[text] = differs.cumsum(0) * differs
        return self._places[text]

    @contextmanager
    def _given(self, where: torch.Tensor) -> Iterator[None]:
        def give(_: torch.nn.Module, __: Any, found: torch.Tensor) -> torch.Tensor:
            numbers = where[:, : found.shape[1]].to(found.device)
            if numbers.shape != found.shape[:2]:
                raise ModelError(
                    f"the text encoder reads {tuple(found.shape[:2])} tokens; expected {tuple(where.shape)}"
                )
            given = self.vectors.to(found)[(numbers - 1).clamp(min=0)]
            return torch.where((numbers > 0)[..., None], given, found)

        with ExitStack() as stack:
            for part in self._lookups:
                stack.callback(part.register_forward_hook(give).remove)
            yield


def _words(model: LoadedModel) -> tuple[str, str, int]:
    """Returns two words that are one token each, and the token of the first."""
    encoded = model.family.encode(model.pipeline, list(_WORDS))
    for i, word in enumerate(_WORDS):
        for j, other in enumerate(_WORDS[:i]):
            differs = (encoded.ids[i] != encoded.ids[j]).nonzero()
            if len(differs) == 1:
                return other, word, int(encoded.ids[j, differs[0, 0]])
    raise ModelError(f"the tokenizer has none of {', '.join(_WORDS)} as one token; expected two of them")


def in_place(prompt: str, donor: str) -> str:
    """Returns a prompt with one slot in place of what its donor changes.

    Args:
        prompt: the sentence.
        donor: the same without the attribute, or with another.
    """
    here, there = prompt.split(), donor.split()
    first = last = 0
    while first < min(len(here), len(there)) and here[first] == there[first]:
        first += 1
    while last < min(len(here), len(there)) - first and here[-1 - last] == there[-1 - last]:
        last += 1
    return " ".join([*here[:first], SLOT, *here[len(here) - last :]])


def encoder_of(tokens: FreeTokens, said: Callable[[str], str]) -> Callable[[list[str]], PromptEmbeds]:
    """Returns what encodes rows' texts for `loco_core.diffusion.generate.generate`, the empty one as it is.

    Args:
        tokens: the free tokens.
        said: gives a prompt its slots.
    """
    return lambda texts: tokens.encode([said(text) if text else text for text in texts])
