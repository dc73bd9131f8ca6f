from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import pytest

from loco_core.diffusion.model import LoadedModel, load_model
from loco_core.testing.attacks import AttackContract


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
