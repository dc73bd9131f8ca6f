"""Textual inversion: a new word learned on clean pictures of the attribute, put where the prompt named it.

Gal et al., "An Image is Worth One Word", ICLR 2023, turned on erased concepts by Pham et al., "Circumventing Concept
Erasure Methods For Text-to-Image Generative Models", ICLR 2024. The same: one embedding is learned by the diffusion
loss on pictures of the concept, weights stay. Different: the pictures are the unedited model's own, a few instead of a
training set, in the prompts that they were drawn from; and the new word takes the place of all that the donor changes,
so that the prompt no longer names the attribute.

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
    words="learns a new word on a few clean pictures, and puts it where the prompt named the attribute",
    learns=True,
    passes=passes_of_learning,
)


class Settings(LearningSettings):
    """Settings of textual inversion.

    Attributes:
        learning_rate: of AdamW, as a share of the standard deviation of the vocabulary's coordinates.
    """

    steps: Annotated[int, Field(ge=1, le=10_000)] = 100
    learning_rate: Annotated[float, Field(gt=0)] = 0.1


@contextmanager
def attack(model: LoadedModel, task: AttackTask, settings: Settings) -> Iterator[Draw]:
    """Learns the word, and draws every prompt with it; see :class:`loco_core.attacking.base.Attack`."""
    from loco_core.attacking.drawing import drawn
    from loco_core.attacking.free_tokens import FreeTokens, encoder_of, in_place

    tokens = FreeTokens(model, 1)
    texts = [in_place(record.prompt, record.donor) for record in task.clean.records]
    tokens.learn(task, settings, settings.learning_rate, texts)

    def draw(rows: Sequence[Row]) -> torch.Tensor:
        said = {row.prompt: in_place(row.prompt, row.donor) for row in rows}
        return drawn(model, rows, task, encoder_of(tokens, said.__getitem__))

    yield draw
