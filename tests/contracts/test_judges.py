from __future__ import annotations

import pytest

from loco_core.scoring.base import Judge, load_judge
from loco_core.testing.judges import JudgeContract
from loco_core.toyworld import JUDGE


class TestBundled(JudgeContract):
    @pytest.fixture(scope="class")
    def judge(self) -> Judge:
        return load_judge(JUDGE, "cpu")
