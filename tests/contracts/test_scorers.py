from __future__ import annotations

import pytest

from loco_core.scoring.base import Scorer, load_scorer
from loco_core.testing.scorers import ScorerContract
from loco_core.toyworld import CLIP, JUDGE


class TestClip(ScorerContract):
    @pytest.fixture(scope="class")
    def scorer(self) -> Scorer:
        return load_scorer(CLIP, None, "cpu")


class TestJudge(ScorerContract):
    @pytest.fixture(scope="class")
    def scorer(self) -> Scorer:
        return load_scorer(JUDGE, None, "cpu")
