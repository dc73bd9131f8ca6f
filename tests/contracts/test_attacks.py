from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch

from loco_core.attacking.base import AttackChoice, AttackTask, Clean, attacked
from loco_core.diffusion.model import LoadedModel, load_model
from loco_core.testing.attacks import AttackContract
from loco_core.types import Row


class OnUNet(AttackContract):
    @pytest.fixture(scope="class")
    def model(self, tiny_model: LoadedModel) -> LoadedModel:
        return tiny_model


class OnTransformer(AttackContract):
    @pytest.fixture(scope="class")
    def model(self, toy_transformers: Path) -> LoadedModel:
        return load_model("pixart", str(toy_transformers / "toy-dit"), None, "float32", "cpu")


class NoisedClean(AttackContract):
    attack = "noised_clean"
    settings: ClassVar[Mapping[str, Any]] = {"pictures": 2, "strength": 0.5}

    def test_prompts_of_one_seed_begin_with_clean_pictures_of_their_own(
        self, model: LoadedModel, task: AttackTask
    ) -> None:
        rows = [Row(record.prompt, record.donor, 0) for record in task.clean.records]
        black = torch.zeros_like(task.clean.pictures[:1])
        other = Clean(torch.cat([task.clean.pictures[:1], black]), task.clean.records)

        def drawn(clean: Clean, together: bool) -> torch.Tensor:
            choice, given = AttackChoice(self.attack, self.settings), replace(task, clean=clean)
            with torch.no_grad(), attacked(model, choice, given) as draw:
                return draw(rows) if together else torch.cat([draw([row]) for row in rows])

        first, second = drawn(task.clean, True), drawn(other, True)
        assert torch.equal(first[0], second[0])
        assert not torch.equal(first[1], second[1])
        assert torch.equal(first, drawn(task.clean, False))


class Relearn(AttackContract):
    attack = "relearn"
    settings: ClassVar[Mapping[str, Any]] = {"pictures": 2, "steps": 2, "batch_size": 2}


class SoftPrompt(AttackContract):
    attack = "soft_prompt"
    settings: ClassVar[Mapping[str, Any]] = {"pictures": 2, "steps": 2, "batch_size": 2}


class TextualInversion(AttackContract):
    attack = "textual_inversion"
    settings: ClassVar[Mapping[str, Any]] = {"pictures": 2, "steps": 2, "batch_size": 2}


class TestNoisedCleanOnUNet(NoisedClean, OnUNet):
    pass


class TestNoisedCleanOnTransformer(NoisedClean, OnTransformer):
    pass


class TestRelearnOnUNet(Relearn, OnUNet):
    pass


class TestRelearnOnTransformer(Relearn, OnTransformer):
    pass


class TestSoftPromptOnUNet(SoftPrompt, OnUNet):
    pass


class TestSoftPromptOnTransformer(SoftPrompt, OnTransformer):
    pass


class TestTextualInversionOnUNet(TextualInversion, OnUNet):
    pass


class TestTextualInversionOnTransformer(TextualInversion, OnTransformer):
    pass
