from __future__ import annotations

from pathlib import Path

import pytest

from loco_core.testing.families import FamilyContract, Subject
from tests.support.tiny_cross import CALL_ARGUMENTS, build

# Of the engine's own arguments.
SIDES = ("height", "width")


def subject_of(name: str, family: str, folder: Path, guidance_scale: float = 3.0) -> Subject:
    arguments = {key: value for key, value in CALL_ARGUMENTS[name].items() if key not in SIDES}
    return Subject(family, build(name, folder / name), arguments, guidance_scale, CALL_ARGUMENTS[name].get("height"))


class TestLCM(FamilyContract):
    @pytest.fixture(scope="class")
    def subject(self, tmp_path_factory: pytest.TempPathFactory) -> Subject:
        return subject_of("lcm", "lcm", tmp_path_factory.mktemp("models"), guidance_scale=8.5)


class TestSanaSprint(FamilyContract):
    @pytest.fixture(scope="class")
    def subject(self, tmp_path_factory: pytest.TempPathFactory) -> Subject:
        return subject_of("sana_sprint", "sana_sprint", tmp_path_factory.mktemp("models"), guidance_scale=4.5)


class TestPrunedSDXL(FamilyContract):
    @pytest.fixture(scope="class")
    def subject(self, tmp_path_factory: pytest.TempPathFactory) -> Subject:
        return subject_of("sdxl_pruned", "sdxl", tmp_path_factory.mktemp("models"))


class TestKolors(FamilyContract):
    @pytest.fixture(scope="class")
    def subject(self, tmp_path_factory: pytest.TempPathFactory) -> Subject:
        return subject_of("kolors", "kolors", tmp_path_factory.mktemp("models"))


class TestHunyuanDiT(FamilyContract):
    @pytest.fixture(scope="class")
    def subject(self, tmp_path_factory: pytest.TempPathFactory) -> Subject:
        return subject_of("hunyuan_dit", "hunyuan_dit", tmp_path_factory.mktemp("models"))


class TestWan(FamilyContract):
    @pytest.fixture(scope="class")
    def subject(self, tmp_path_factory: pytest.TempPathFactory) -> Subject:
        return subject_of("wan", "wan", tmp_path_factory.mktemp("models"))
