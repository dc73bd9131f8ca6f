"""The contract of a judge, to be inherited by the tests of one.

class TestMine(JudgeContract):
    @pytest.fixture(scope="class")
    def judge(self) -> Judge:
        return load_judge("./mine.py", "cpu")
"""

from __future__ import annotations

import numpy as np
import pytest
import torch

from loco_core.scoring.base import Judge
from loco_core.testing.scorers import COUNT, SIDE

PROMPTS = ["a red circle", "a blue star", "a green square in the style of lumio", "the flag of zandia"]


class JudgeContract:
    """What every judge promises."""

    @pytest.fixture(scope="class")
    def judge(self) -> Judge:
        """The judge under test."""
        raise NotImplementedError("return your judge here")

    @pytest.fixture
    def pictures(self) -> torch.Tensor:
        """Pictures of noise, ``(n, 3, height, width)`` in [0, 1], no two of one brightness."""
        noise = torch.rand(COUNT, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(4))
        return noise * torch.linspace(0.2, 1.0, COUNT).reshape(-1, 1, 1, 1)

    def test_it_says_which_kinds_it_sees(self, judge: Judge) -> None:
        """One at least, each once."""
        assert judge.kinds
        assert len(set(judge.kinds)) == len(judge.kinds)

    def test_a_picture_has_one_row(self, judge: Judge, pictures: torch.Tensor) -> None:
        """Of float32, and finite."""
        embeddings = judge.embed_images(pictures)
        assert embeddings.dtype == np.float32
        assert embeddings.ndim == 2
        assert len(embeddings) == COUNT
        assert np.isfinite(embeddings).all()

    def test_every_picture_has_one_name_per_kind(self, judge: Judge, pictures: torch.Tensor) -> None:
        """A word, which columns of tables hold."""
        embeddings = judge.embed_images(pictures)
        for kind in judge.kinds:
            names = judge.name(embeddings, kind)
            assert len(names) == COUNT
            assert all(isinstance(name, str) and name for name in names)

    def test_a_picture_is_named_the_same_in_any_company(self, judge: Judge, pictures: torch.Tensor) -> None:
        """As pictures of a unit that is tried again row by row must be."""
        together = judge.embed_images(pictures)
        alone = np.concatenate([judge.embed_images(picture[None]) for picture in pictures])
        for kind in judge.kinds:
            assert judge.name(together, kind) == judge.name(alone, kind)
            assert judge.name(together[::-1], kind) == judge.name(together, kind)[::-1]

    def test_a_prompt_says_one_class_or_nothing(self, judge: Judge) -> None:
        """None, not an empty word: pictures are compared with it."""
        for kind in judge.kinds:
            for prompt in (*PROMPTS, ""):
                said = judge.said(prompt, kind)
                assert said is None or (isinstance(said, str) and said)
                assert said == judge.said(prompt, kind)
