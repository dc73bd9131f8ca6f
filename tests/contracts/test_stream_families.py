from __future__ import annotations

from pathlib import Path

import pytest

from loco_core.testing.families import FamilyContract, Subject
from tests.support.tiny_streams import CALL_ARGUMENTS, build

# Of the engine's own arguments.
SIDES = ("height", "width")


def subject_of(name: str, folder: Path, guidance_scale: float) -> Subject:
    arguments = {key: value for key, value in CALL_ARGUMENTS[name].items() if key not in SIDES}
    return Subject(name, build(name, folder / name), arguments, guidance_scale, CALL_ARGUMENTS[name].get("height"))


class TestFlux2(FamilyContract):
    @pytest.fixture(scope="class")
    def subject(self, tmp_path_factory: pytest.TempPathFactory) -> Subject:
        return subject_of("flux2", tmp_path_factory.mktemp("models"), 4.0)


class TestFlux2Klein(FamilyContract):
    @pytest.fixture(scope="class")
    def subject(self, tmp_path_factory: pytest.TempPathFactory) -> Subject:
        return subject_of("flux2_klein", tmp_path_factory.mktemp("models"), 4.0)


class TestAuraFlow(FamilyContract):
    @pytest.fixture(scope="class")
    def subject(self, tmp_path_factory: pytest.TempPathFactory) -> Subject:
        return subject_of("aura_flow", tmp_path_factory.mktemp("models"), 3.5)
