from __future__ import annotations

from pathlib import Path

import pytest

from loco_core.scoring.metric import PictureMetric, SetMetric, load_picture_metric, load_set_metric
from loco_core.testing.metrics import PictureMetricContract, SetMetricContract
from loco_core.toyworld import WEIGHTS
from tests.support.vision import save_vision_model

CLIP = str(WEIGHTS / "clip")


class TestSsim(PictureMetricContract):
    @pytest.fixture(scope="class")
    def metric(self) -> PictureMetric:
        return load_picture_metric("ssim", "", None, "cpu")


class TestDino(PictureMetricContract):
    @pytest.fixture(scope="class", params=["vit", "dinov2"])
    def metric(self, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> PictureMetric:
        folder: Path = save_vision_model(tmp_path_factory.mktemp("vision"), request.param)
        return load_picture_metric("dino", str(folder), None, "cpu")


class TestCmmd(SetMetricContract):
    name = "cmmd"

    @pytest.fixture(scope="class")
    def metric(self) -> SetMetric:
        return load_set_metric(self.name, CLIP, None, "cpu")


class TestFid(SetMetricContract):
    name = "fid"

    @pytest.fixture(scope="class")
    def metric(self) -> SetMetric:
        return load_set_metric(self.name, CLIP, None, "cpu")
