from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

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


@contextmanager
def uncut(pipeline: Any) -> Iterator[None]:
    """Makes Kandinsky 3 give texts all positions, and pool every row's text as it is cut where it is drawn alone."""
    encode, pooling = pipeline.encode_prompt, pipeline.unet.add_time_condition
    pool = pooling.forward

    def longer(*args: Any, **options: Any) -> tuple[torch.Tensor, ...]:
        made = encode(*args, **options)
        more = [128 - each.shape[1] for each in made]
        return tuple(
            torch.nn.functional.pad(each, (0, 0) * (each.ndim - 2) + (0, add))
            for each, add in zip(made, more, strict=True)
        )

    def one_by_one(time: torch.Tensor, texts: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        rows = []
        for row, (text, hidden) in enumerate(zip(texts, mask, strict=True)):
            count = int((hidden[0] == 0).sum()) + 1
            rows.append(pool(time[row : row + 1], text[None, :count], hidden[None, :, :count]))
        return torch.cat(rows)

    pipeline.encode_prompt, pooling.forward = longer, one_by_one
    try:
        yield
    finally:
        del pipeline.encode_prompt, pooling.forward


class TestKandinsky3(FamilyContract):
    @pytest.fixture(scope="class")
    def subject(self, tmp_path_factory: pytest.TempPathFactory) -> Subject:
        return replace(subject_of("kandinsky3", "kandinsky3", tmp_path_factory.mktemp("models")), prepared=uncut)
