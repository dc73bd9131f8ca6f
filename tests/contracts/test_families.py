from __future__ import annotations

from pathlib import Path

import pytest

from loco_core.testing.families import FamilyContract, Subject
from loco_core.toyworld import WEIGHTS
from tests.support.tiny_models import CALL_ARGUMENTS, build

# Of the engine's own arguments.
SIDES = ("height", "width")


def subject_of(name: str, family: str, folder: Path, guidance_scale: float = 3.0) -> Subject:
    arguments = {key: value for key, value in CALL_ARGUMENTS[name].items() if key not in SIDES}
    side = CALL_ARGUMENTS[name].get("height")
    return Subject(family, build(name, folder / name), arguments, guidance_scale, side)


class TestSDXL(FamilyContract):
    @pytest.fixture(scope="class")
    def subject(self, tmp_path_factory: pytest.TempPathFactory) -> Subject:
        return subject_of("sdxl", "sdxl", tmp_path_factory.mktemp("models"))


class TestDeepFloydIF(FamilyContract):
    @pytest.fixture(scope="class")
    def subject(self, tmp_path_factory: pytest.TempPathFactory) -> Subject:
        return subject_of("deepfloyd_if", "deepfloyd_if", tmp_path_factory.mktemp("models"))


class TestPixArtAlpha(FamilyContract):
    @pytest.fixture(scope="class")
    def subject(self, tmp_path_factory: pytest.TempPathFactory) -> Subject:
        return subject_of("pixart_alpha", "pixart", tmp_path_factory.mktemp("models"))


class TestToyTransformer(FamilyContract):
    @pytest.fixture(scope="class")
    def subject(self, toy_transformers: Path) -> Subject:
        arguments = {key: value for key, value in CALL_ARGUMENTS["pixart_alpha"].items() if key not in SIDES}
        return Subject("pixart", toy_transformers / "toy-dit-planted", arguments)


class TestBundledTransformer(FamilyContract):
    @pytest.fixture(scope="class")
    def subject(self) -> Subject:
        arguments = {key: value for key, value in CALL_ARGUMENTS["pixart_alpha"].items() if key not in SIDES}
        return Subject("pixart", WEIGHTS / "toy-dit-planted", arguments)


class TestBundledJointStream(FamilyContract):
    @pytest.fixture(scope="class")
    def subject(self) -> Subject:
        arguments = {"max_sequence_length": 0}
        return Subject("sd3", WEIGHTS / "toy-mmdit", arguments)


class TestPixArtSigma(FamilyContract):
    @pytest.fixture(scope="class")
    def subject(self, tmp_path_factory: pytest.TempPathFactory) -> Subject:
        return subject_of("pixart_sigma", "pixart", tmp_path_factory.mktemp("models"))


class TestSana(FamilyContract):
    @pytest.fixture(scope="class")
    def subject(self, tmp_path_factory: pytest.TempPathFactory) -> Subject:
        return subject_of("sana", "sana", tmp_path_factory.mktemp("models"))


class TestSD3(FamilyContract):
    @pytest.fixture(scope="class")
    def subject(self, tmp_path_factory: pytest.TempPathFactory) -> Subject:
        return subject_of("sd3", "sd3", tmp_path_factory.mktemp("models"))


class TestFlux(FamilyContract):
    @pytest.fixture(scope="class")
    def subject(self, tmp_path_factory: pytest.TempPathFactory) -> Subject:
        return subject_of("flux", "flux", tmp_path_factory.mktemp("models"), guidance_scale=3.5)
