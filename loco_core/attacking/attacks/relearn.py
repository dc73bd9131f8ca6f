"""Relearning: a few steps of the optimizer on a few clean pictures, then the prompts again.

Relearning as a test of unlearning is Lynch et al., "Eight Methods to Evaluate Robust Unlearning in LLMs", 2024 (section
3.3); that models of pictures let an erased concept come back when they are fine-tuned is Suriyakumar et al., "Unstable
Unlearning: The Hidden Risk of Concept Resurgence in Diffusion Models", 2024. The same: weights of the edited model are
trained further by its own loss, and what returns in few steps was not gone. Different: what is trained on is the
attribute itself, not something unrelated to it, and only K and V of the text at all sites are trained, as in Kumari et
al., "Multi-Concept Customization of Text-to-Image Diffusion" (Custom Diffusion), CVPR 2023.
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
    words="trains K and V of the text at all sites for a few steps on a few clean pictures",
    learns=True,
    passes=passes_of_learning,
)


class Settings(LearningSettings):
    """Settings of relearning.

    Attributes:
        learning_rate: of AdamW.
    """

    steps: Annotated[int, Field(ge=1, le=10_000)] = 20
    learning_rate: Annotated[float, Field(gt=0)] = 1e-4


@contextmanager
def attack(model: LoadedModel, task: AttackTask, settings: Settings) -> Iterator[Draw]:
    """Trains, draws, and puts the weights back; see :class:`loco_core.attacking.base.Attack`."""
    from loco_core.attacking.drawing import drawn
    from loco_core.attacking.learning import frozen, learn

    texts = model.encode([record.prompt for record in task.clean.records])
    held = _projections(model)
    before = [weight.detach().clone() for weight in held]
    # Steps are too small for weights of half precision: they are added up beside them.
    full = [weight.detach().float().clone() for weight in held]

    def hand_over() -> None:
        for own, weight in zip(full, held, strict=True):
            own.grad = None if weight.grad is None else weight.grad.float()
            weight.grad = None

    def write() -> None:
        for own, weight in zip(full, held, strict=True):
            weight.data.copy_(own)

    def draw(rows: Sequence[Row]) -> torch.Tensor:
        return drawn(model, rows, task)

    try:
        with frozen(model, held):
            learn(model, task, settings, settings.learning_rate, full, texts.take, hand_over, write)
        yield draw
    finally:
        for weight, own in zip(held, before, strict=True):
            weight.data.copy_(own)


def _projections(model: LoadedModel) -> list[torch.Tensor]:
    """Returns weights and biases of K and V of the text, each once."""
    denoiser = model.family.denoiser(model.pipeline)
    paths = dict.fromkeys(path for site in model.sites for path in (site.key_path, site.value_path))
    return [weight for path in paths for weight in denoiser.get_submodule(path).parameters()]
