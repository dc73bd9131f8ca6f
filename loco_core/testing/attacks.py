"""The contract of an attack, to be inherited by the tests of one.

class TestMine(AttackContract):
    attack = "./mine.py"

    @pytest.fixture(scope="class")
    def model(self) -> LoadedModel:
        return load_model("stable_diffusion", "A_SMALL_PIPELINE", None, "float32", "cpu")
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import pytest
import torch

from loco_core import plugins
from loco_core.attacking.base import AttackChoice, AttackTask, Clean, attack_info, attack_settings, attacked
from loco_core.diffusion.generate import generate
from loco_core.diffusion.model import LoadedModel
from loco_core.types import Generation, PromptRecord, Row

SETTINGS = Generation(steps=2, guidance_scale=3.0)
BATCH = 2
RECORDS = tuple(
    PromptRecord(f"a {colour} {shape} in the style of velor", f"a {colour} {shape}", "velor style", "a shape", shape)
    for colour, shape in (("red", "circle"), ("blue", "star"))
)
ROWS = tuple(Row(record.prompt, record.donor, seed) for record in RECORDS for seed in (0, 1))[:3]


class AttackContract:
    """What every attack promises.

    Attributes:
        attack: key of the attack under test, or its file.
        settings: settings that make it short.
    """

    attack: str
    settings: ClassVar[Mapping[str, Any]] = {"pictures": 2}

    @pytest.fixture(scope="class")
    def model(self) -> LoadedModel:
        """A small pipeline of an attackable family."""
        raise NotImplementedError("return a small loaded pipeline here")

    @pytest.fixture(scope="class")
    def task(self, model: LoadedModel) -> AttackTask:
        """Two clean pictures."""
        rows = [Row(record.prompt, record.donor, 7 + i) for i, record in enumerate(RECORDS)]
        (part,) = generate(model, rows, SETTINGS, BATCH)
        return AttackTask(Clean(part.images, RECORDS), SETTINGS, BATCH, 0)

    def drawn(self, model: LoadedModel, task: AttackTask) -> torch.Tensor:
        """Pictures of the attacked model."""
        with torch.no_grad(), attacked(model, AttackChoice(self.attack, self.settings), task) as draw:
            return draw(ROWS)

    def test_it_says_what_it_takes(self) -> None:
        """In words and in passes, for its defaults too; those that take gradients take passes."""
        info = attack_info(self.attack)
        assert callable(plugins.function("attacks", self.attack, "attack"))
        for given in ({}, self.settings):
            passes = info.passes(attack_settings(AttackChoice(self.attack, given)))
            assert passes > 0 if info.learns else passes == 0

    def test_every_row_has_a_picture_and_the_same_one_again(self, model: LoadedModel, task: AttackTask) -> None:
        """Also where the last batch is not full."""
        first = self.drawn(model, task)
        assert first.shape == (len(ROWS), *task.clean.pictures.shape[1:])
        assert bool(first.isfinite().all())
        assert torch.equal(first, self.drawn(model, task))

    def test_it_does_something_and_leaves_the_model_as_it_was(self, model: LoadedModel, task: AttackTask) -> None:
        """Weights bit for bit, gradients, and what the pipeline is made of."""
        parts = [part for part in model.pipeline.components.values() if isinstance(part, torch.nn.Module)]
        weights = [weight for part in parts for weight in part.parameters()]
        # All but the first may learn, and none has a gradient, whatever came before on the same model.
        for number, weight in enumerate(weights):
            weight.requires_grad_(number > 0)
            weight.grad = None
        before = [(weight, weight.detach().clone(), weight.requires_grad) for weight in weights]
        scheduler, plain = model.pipeline.scheduler, _plain(model)
        assert not torch.equal(self.drawn(model, task), plain)
        for weight, value, learns in before:
            assert torch.equal(weight, value)
            assert weight.requires_grad == learns
            assert weight.grad is None
        assert model.pipeline.scheduler is scheduler
        assert torch.equal(_plain(model), plain)
        weights[0].requires_grad_(True)


def _plain(model: LoadedModel) -> torch.Tensor:
    """Returns pictures without an attack."""
    return torch.cat([part.images for part in generate(model, ROWS, SETTINGS, BATCH)])
