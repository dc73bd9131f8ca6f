from __future__ import annotations

from pathlib import Path

import pytest

from loco_core.testing.families import FamilyContract, Subject
from tests.support.tiny_joint import CALL_ARGUMENTS, build

# Of the engine's own arguments.
SIDES = ("height", "width")


def subject_of(name: str, family: str, folder: Path, guidance_scale: float = 3.0, padding: int = 0) -> Subject:
    arguments = {key: value for key, value in CALL_ARGUMENTS[name].items() if key not in SIDES}
    side = CALL_ARGUMENTS[name].get("height")
    return Subject(family, build(name, folder / name), arguments, guidance_scale, side, padding)


class TestQwenImage(FamilyContract):
    @pytest.fixture(scope="class")
    def subject(self, tmp_path_factory: pytest.TempPathFactory) -> Subject:
        return subject_of("qwen_image", "qwen_image", tmp_path_factory.mktemp("models"), padding=64)


class TestFluxSchnell(FamilyContract):
    @pytest.fixture(scope="class")
    def subject(self, tmp_path_factory: pytest.TempPathFactory) -> Subject:
        return subject_of("flux_schnell", "flux", tmp_path_factory.mktemp("models"), guidance_scale=0.0)


class TestChroma(FamilyContract):
    @pytest.fixture(scope="class")
    def subject(self, tmp_path_factory: pytest.TempPathFactory) -> Subject:
        return subject_of("chroma", "chroma", tmp_path_factory.mktemp("models"))


class TestHunyuanImage(FamilyContract):
    @pytest.fixture(scope="class")
    def subject(self, tmp_path_factory: pytest.TempPathFactory) -> Subject:
        return subject_of("hunyuan_image", "hunyuan_image", tmp_path_factory.mktemp("models"), padding=64)


class TestOvisImage(FamilyContract):
    @pytest.fixture(scope="class")
    def subject(self, tmp_path_factory: pytest.TempPathFactory) -> Subject:
        return subject_of("ovis_image", "ovis_image", tmp_path_factory.mktemp("models"))
