"""A soft prompt: free tokens in front of the prompt, learned so that the edited model denoises clean pictures again.

Relatives are Chin et al., "Prompting4Debugging: Red-Teaming Text-to-Image Diffusion Models by Finding Problematic
Prompts" (P4D), ICML 2024, Zhang et al., "To Generate or Not? Safety-Driven Unlearned Diffusion Models Are Still Easy To
Generate Unsafe Images ... For Now" (UnlearnDiffAtk), ECCV 2024, and Tsai et al., "Ring-A-Bell!", ICLR 2024. The same:
tokens before the prompt are optimized against the edited model by the diffusion loss on pictures of the concept, as in
UnlearnDiffAtk (eq. 5), in the space of embeddings, as P4D does before it takes the nearest words. Different: the
embeddings stay free, so that it is an upper bound of what words can do; and one soft prompt is learned for all prompts,
on other prompts than those it is tried on, as Ring-A-Bell's concept vector is.

An optimizer can put any look into a model that never saw it: compare with the floor.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from loco_core.attacking.base import AttackInfo, AttackTask, Draw, LearningSettings, passes_of_learning
from loco_core.diffusion.model import LoadedModel
from loco_core.types import Row

if TYPE_CHECKING:
    import torch

INFO = AttackInfo(
    words="learns free tokens in front of the prompt on a few clean pictures", learns=True, passes=passes_of_learning,
    tokens=lambda settings: settings.tokens,
)  # fmt: skip


class Settings(LearningSettings):
    """Settings of a soft prompt.

    Attributes:
        tokens: how many free tokens stand in front of the prompt.
        learning_rate: of AdamW, as a share of the standard deviation of the vocabulary's coordinates.
    """

    steps: Annotated[int, Field(ge=1, le=10_000)] = 100
    tokens: Annotated[int, Field(ge=1, le=64)] = 3
    learning_rate: Annotated[float, Field(gt=0)] = 0.1


@contextmanager
def attack(model: LoadedModel, task: AttackTask, settings: Settings) -> Iterator[Draw]:
    """Learns the tokens, and draws every prompt behind them; see :class:`loco_core.attacking.base.Attack`."""
    from loco_core.attacking.drawing import drawn
    from loco_core.attacking.free_tokens import SLOT, FreeTokens, encoder_of

    def said(prompt: str) -> str:
        return " ".join([*[SLOT] * settings.tokens, prompt])

    tokens, texts = FreeTokens(model, settings.tokens), [said(record.prompt) for record in task.clean.records]
    tokens.learn(task, settings, settings.learning_rate, texts)

    def draw(rows: Sequence[Row]) -> torch.Tensor:
        return drawn(model, rows, task, encoder_of(tokens, said))

    yield draw
