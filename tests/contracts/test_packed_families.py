from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from loco_core.diffusion.model import LoadedModel
from loco_core.testing.families import PROMPTS, TOLERANCE, FamilyContract, Subject, difference
from loco_core.testing.plain_attention import Rotary
from loco_core.testing.plain_pipeline import Plain
from loco_core.types import Intervention, Row
from tests.support.tiny_models import SIDE
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

    def test_what_fills_an_image_up_stands_where_it_stands_alone(self, subject: Subject, model: LoadedModel) -> None:
        """Of 16 tokens of the image 32 are made, at a place of their own, from which a longer donor moves the text."""
        small, (donor, prompt) = replace(subject, side=SIDE * 2), PROMPTS[1]
        rows = [Row(prompt, donor, 5), Row(donor, prompt, 5), Row(donor, prompt, 5, Intervention((1, 2)))]
        lengths = model.family.encode(model.pipeline, [prompt, donor]).mask.sum(1)
        assert len(set(lengths.tolist())) == 2
        plain = Plain(small, model)
        for found, row in zip(self.drawn(model, small, rows), rows, strict=True):
            assert difference(found, plain.draw(row)) < TOLERANCE


class TestCogView4(FamilyContract):
    @pytest.fixture(scope="class")
    def subject(self, tmp_path_factory: pytest.TempPathFactory) -> Subject:
        return subject_of("cogview4", tmp_path_factory.mktemp("models"), Rotary())


class TestCogView3(FamilyContract):
    @pytest.fixture(scope="class")
    def subject(self, tmp_path_factory: pytest.TempPathFactory) -> Subject:
        return subject_of("cogview3", tmp_path_factory.mktemp("models"), Rotary())
