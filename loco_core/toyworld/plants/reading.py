"""Texts, noise and predictions of the bundled models, as they are trained with: one step of any of their denoisers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from diffusers import FlowMatchEulerDiscreteScheduler

from loco_core.diffusion.model import LoadedModel, PromptEmbeds
from loco_core.errors import SpecError

TIMES = 1000
AT_ONCE = 256


class Reader:
    """Texts as a denoiser reads them, each encoded once with the weights of that time.

    Padding that nothing looks at is cut off: T5 of the bundled models pads a dozen tokens to 120.
    """

    def __init__(self, model: LoadedModel) -> None:
        """Encodes nothing yet."""
        self._model = model
        self._known: dict[str, PromptEmbeds] = {}

    def learn(self, texts: Sequence[str]) -> None:
        """Encodes what is not known yet."""
        new = [text for text in dict.fromkeys(texts) if text not in self._known]
        for start in range(0, len(new), AT_ONCE):
            some = new[start : start + AT_ONCE]
            found = self._model.family.encode(self._model.pipeline, some)
            self._known |= {text: found.take([row]) for row, text in enumerate(some)}

    def read(self, texts: Sequence[str]) -> PromptEmbeds:
        """Returns texts, encoded."""
        self.learn(texts)
        parts = [self._known[text] for text in texts]
        mask, pooled = ([getattr(part, name) for part in parts] for name in ("mask", "pooled"))
        last = None if mask[0] is None else int(torch.cat(mask).sum(1).max())
        return PromptEmbeds(
            torch.cat([part.embeds for part in parts])[:, :last], torch.cat([part.ids for part in parts])[:, :last],
            torch.cat([part.words for part in parts])[:, :last],
            None if mask[0] is None else torch.cat(mask)[:, :last],
            None if pooled[0] is None else torch.cat(pooled),
        )  # fmt: skip


class LearningReader:
    """Texts as a text encoder reads them that learns: encoded anew each time, with gradients."""

    def __init__(self, model: LoadedModel, base: Reader) -> None:
        """Encodes nothing yet; what the base read says which tokens there are."""
        self._model, self._base = model, base

    def read(self, texts: Sequence[str]) -> PromptEmbeds:
        """Returns texts, encoded."""
        known, encoder = self._base.read(texts), self._model.pipeline.text_encoder
        states = encoder(known.ids.to(encoder.device), attention_mask=known.mask).last_hidden_state
        return PromptEmbeds(states, known.ids, known.words, known.mask)


def check_one_encoder(model: LoadedModel, name: str) -> None:
    """Refuses a model whose sites read several text encoders, or a pooled text beside them.

    Raises:
        SpecError: it does.
    """
    if model.facts.pooled or len(model.facts.traced_encoders) != 1:
        raise SpecError(f"{name} reads more than one text encoder; expected a model with one to plant into")


def predict(denoiser: torch.nn.Module, noisy: torch.Tensor, at: torch.Tensor, texts: PromptEmbeds) -> torch.Tensor:
    """Returns what a bundled denoiser predicts of noisy latents ``(n, 8, 8, 8)`` at times ``(n,)``."""
    more: dict[str, Any] = {}
    if texts.mask is not None:
        more["encoder_attention_mask"] = texts.mask
    if texts.pooled is not None:
        more["pooled_projections"] = texts.pooled
    found: torch.Tensor = denoiser(noisy, timestep=at, encoder_hidden_states=texts.embeds, **more).sample
    return found


def make_noisy(model: LoadedModel, clean: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns latents with noise of random times, and the times, as the model's own training drew them."""
    scheduler, noise = model.pipeline.scheduler, torch.randn_like(clean)
    if isinstance(scheduler, FlowMatchEulerDiscreteScheduler):
        at = torch.randn(len(clean)).sigmoid()
        share = at[:, None, None, None]
        return (1 - share) * clean + share * noise, at * TIMES
    at = torch.randint(0, TIMES, (len(clean),))
    return scheduler.add_noise(clean, noise, at), at
