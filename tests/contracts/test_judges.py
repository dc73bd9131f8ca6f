from __future__ import annotations

from pathlib import Path

import pytest

from loco_core.scoring.base import Judge, JudgeChoice, load_judge
from loco_core.testing.judges import JudgeContract
from loco_core.toyworld import JUDGE
from tests.support.judge_models import classes, llava, other_clip, reader, references, siglip
from tests.support.text_attributes import words


class TestBundled(JudgeContract):
    @pytest.fixture(scope="class")
    def judge(self) -> Judge:
        return load_judge(JUDGE, "cpu")


class TestZeroShotByClip(JudgeContract):
    @pytest.fixture(scope="class")
    def judge(self, tmp_path_factory: pytest.TempPathFactory) -> Judge:
        model = other_clip(Path(tmp_path_factory.mktemp("judge")) / "clip")
        return load_judge(JudgeChoice("zero_shot", str(model)), "cpu", classes())


class TestZeroShotBySiglip(JudgeContract):
    @pytest.fixture(scope="class")
    def judge(self, tmp_path_factory: pytest.TempPathFactory) -> Judge:
        model = siglip(Path(tmp_path_factory.mktemp("judge")) / "siglip")
        return load_judge(JudgeChoice("zero_shot", str(model)), "cpu", classes())


class TestVqa(JudgeContract):
    @pytest.fixture(scope="class")
    def judge(self, tmp_path_factory: pytest.TempPathFactory) -> Judge:
        model = llava(Path(tmp_path_factory.mktemp("judge")) / "llava")
        settings = {"kinds": ("style", "fact"), "abstain": 0.0}
        return load_judge(JudgeChoice("vqa", str(model), settings=settings), "cpu", classes())


class TestOcr(JudgeContract):
    @pytest.fixture(scope="class")
    def judge(self, tmp_path_factory: pytest.TempPathFactory) -> Judge:
        model = reader(Path(tmp_path_factory.mktemp("judge")) / "reader")
        settings = {"abstain": 0.0, "longest": 8}
        return load_judge(JudgeChoice("ocr", str(model), settings=settings), "cpu", words())


class TestStyle(JudgeContract):
    @pytest.fixture(scope="class")
    def judge(self, tmp_path_factory: pytest.TempPathFactory) -> Judge:
        folder = Path(tmp_path_factory.mktemp("judge"))
        pictures = references(folder / "pictures", ("lumio", "velor", "a shape"))
        choice = JudgeChoice("style", str(other_clip(folder / "clip")), pictures=str(pictures))
        return load_judge(choice, "cpu", classes())
