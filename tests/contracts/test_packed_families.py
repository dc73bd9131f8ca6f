from __future__ import annotations

from pathlib import Path

import pytest

from loco_core.testing.families import FamilyContract, Subject
from loco_core.testing.plain_attention import Rotary
from tests.support.tiny_packed import CALL_ARGUMENTS, build

# Of the engine's own arguments.
SIDES = ("height", "width")


def subject_of(name: str, folder: Path, rotary: Rotary) -> Subject:
    arguments = {key: value for key, value in CALL_ARGUMENTS[name].items() if key not in SIDES}
    side = CALL_ARGUMENTS[name].get("height")
    return Subject(name, build(name, folder / name), arguments, side=side, rotary=rotary)


class TestLumina2(FamilyContract):
    @pytest.fixture(scope="class")
    def subject(self, tmp_path_factory: pytest.TempPathFactory) -> Subject:
        return subject_of("lumina2", tmp_path_factory.mktemp("models"), Rotary(4))


class TestZImage(FamilyContract):
    @pytest.fixture(scope="class")
    def subject(self, tmp_path_factory: pytest.TempPathFactory) -> Subject:
        return subject_of("z_image", tmp_path_factory.mktemp("models"), Rotary(4, 256.0))


class TestCogView4(FamilyContract):
    @pytest.fixture(scope="class")
    def subject(self, tmp_path_factory: pytest.TempPathFactory) -> Subject:
        return subject_of("cogview4", tmp_path_factory.mktemp("models"), Rotary())
