"""Noised clean pictures: the run begins with a clean picture of the attribute under noise; is it completed?

The idea is that of SDEdit (Meng et al., ICLR 2022): a picture is noised as far as a share ``strength`` of the run, and
denoised from there with a prompt. Used on erased concepts in Pham et al., "Circumventing Concept Erasure Methods For
Text-to-Image Generative Models", ICLR 2024 (image-to-image among its attacks), and as a completion test in Lu et al.,
"When Are Concepts Erased From Diffusion Models?", 2025. The same: the picture, not the text, brings the attribute.
Different: the pictures are the unedited model's own, and the attribute's prompt is kept.

With little noise any model gives the picture back, one that never saw the attribute included: compare with the floor.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from loco_core.attacking.base import AttackInfo, AttackSettings, AttackTask, Draw
from loco_core.diffusion.model import LoadedModel
from loco_core.types import Row

if TYPE_CHECKING:
    import torch

INFO = AttackInfo(words="begins the run with clean pictures under noise")


class Settings(AttackSettings):
    """Settings of noised clean pictures.

    Attributes:
        strength: share of the run that is left when it begins; 1 begins with almost nothing of the picture.
    """

    strength: Annotated[float, Field(gt=0, le=1)] = 0.75


@contextmanager
def attack(model: LoadedModel, task: AttackTask, settings: Settings) -> Iterator[Draw]:
    """Draws from clean pictures in turn; see :class:`loco_core.attacking.base.Attack`."""
    import torch

    from loco_core.attacking.drawing import started_from
    from loco_core.attacking.learning import family_of
    from loco_core.diffusion.generate import generate

    clean = family_of(model).latents(model.pipeline, task.clean.pictures)
    turns: dict[tuple[str, int], int] = {}

    def batch(rows: Sequence[Row]) -> torch.Tensor:
        # A batch is filled up with copies of its last row.
        filled = [*rows, *[rows[-1]] * (task.batch_size - len(rows))]
        # Rows that are drawn one by one begin with the pictures that they begin with together. The seed alone says
        # little: an attack is made for one.
        latents = clean[[turns.setdefault((row.prompt, row.seed), len(turns)) % len(clean) for row in filled]]
        seeds = [torch.Generator().manual_seed(row.seed) for row in filled]
        noise = torch.stack([torch.randn(latents.shape[1:], generator=each) for each in seeds]).to(latents)

        def later() -> AbstractContextManager[None]:
            return started_from(model.pipeline, latents, noise, settings.strength)

        return next(generate(model, rows, task.generation, task.batch_size, during=later)).images

    def draw(rows: Sequence[Row]) -> torch.Tensor:
        size = task.batch_size
        return torch.cat([batch(rows[first : first + size]) for first in range(0, len(rows), size)])

    yield draw
