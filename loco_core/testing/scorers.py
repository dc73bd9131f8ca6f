"""The contract of a scorer, to be inherited by the tests of one.

class TestMine(ScorerContract):
    @pytest.fixture(scope="class")
    def scorer(self) -> Scorer:
        return load_scorer("./mine.py", None, "cpu")
"""

from __future__ import annotations

import numpy as np
import pytest
import torch

from loco_core.scoring.base import Scorer

TEXTS = ["a red circle", "a blue star", "a green square in the style of lumio"]
COUNT, SIDE = 4, 32


class ScorerContract:
    """What every scorer promises."""

    @pytest.fixture(scope="class")
    def scorer(self) -> Scorer:
        """The scorer under test."""
        raise NotImplementedError("return your scorer here")

    @pytest.fixture
    def pictures(self) -> torch.Tensor:
        """Pictures of noise, ``(n, 3, height, width)`` in [0, 1], no two of one brightness."""
        noise = torch.rand(COUNT, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(4))
        return noise * torch.linspace(0.2, 1.0, COUNT).reshape(-1, 1, 1, 1)

    def test_a_picture_has_one_row(self, scorer: Scorer, pictures: torch.Tensor) -> None:
        """Which is kept, so that new texts can be scored later."""
        embeddings = scorer.embed_images(pictures)
        assert embeddings.dtype == np.float32
        assert embeddings.ndim == 2
        assert len(embeddings) == COUNT
        assert np.isfinite(embeddings).all()

    def test_a_picture_and_a_text_have_one_score(self, scorer: Scorer, pictures: torch.Tensor) -> None:
        """Which tells pictures apart."""
        scores = scorer.score(scorer.embed_images(pictures), TEXTS)
        assert scores.dtype == np.float64
        assert scores.shape == (COUNT, len(TEXTS))
        assert np.isfinite(scores).all()
        assert (np.ptp(scores, axis=0) > 0).all()

    def test_a_text_scores_the_same_in_any_company(self, scorer: Scorer, pictures: torch.Tensor) -> None:
        """Bit for bit: a cell has one score, whatever else is scored beside it."""
        embeddings = scorer.embed_images(pictures)
        alone = scorer.score(embeddings, TEXTS[1:2])[:, 0]
        assert np.array_equal(alone, scorer.score(embeddings, TEXTS)[:, 1])
        assert np.array_equal(alone, scorer.score(embeddings, TEXTS[::-1])[:, 1])

    def test_a_picture_embeds_the_same_in_any_company(self, scorer: Scorer, pictures: torch.Tensor) -> None:
        """But for rounding."""
        alone = np.concatenate([scorer.embed_images(picture[None]) for picture in pictures])
        assert np.allclose(scorer.embed_images(pictures), alone, atol=1e-5)

    def test_a_picture_that_is_not_finite_gets_no_finite_score(self, scorer: Scorer, pictures: torch.Tensor) -> None:
        """And spoils no other."""
        spoilt = pictures.clone()
        spoilt[1, 0, 0, 0] = float("nan")
        spoilt[2, 0, 0, 0] = float("inf")
        found = scorer.embed_images(spoilt)
        assert np.isfinite(found).all(1).tolist() == [True, False, False, True]
        assert not np.isfinite(scorer.score(found[1:3], TEXTS)).any()
