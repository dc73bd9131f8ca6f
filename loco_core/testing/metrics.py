"""The contracts of metrics, to be inherited by the tests of one.

class TestMine(PictureMetricContract):
    @pytest.fixture(scope="class")
    def metric(self) -> PictureMetric:
        return load_picture_metric("./mine.py", "", None, "cpu")


class TestMineOfSets(SetMetricContract):
    name = "./mine_of_sets.py"

    @pytest.fixture(scope="class")
    def metric(self) -> SetMetric:
        return load_set_metric(self.name, "", None, "cpu")
"""

from __future__ import annotations

import numpy as np
import pytest
import torch

from loco_core import plugins
from loco_core.scoring.metric import MetricInfo, PictureMetric, SetMetric, compares_sets, metric_info
from loco_core.scoring.set_distance import set_distance
from loco_core.testing.scorers import COUNT, SIDE

PROMPTS, SEEDS, WIDTH = 6, 2, 3


def _pictures() -> torch.Tensor:
    noise = torch.rand(COUNT, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(4))
    return noise * torch.linspace(0.2, 1.0, COUNT).reshape(-1, 1, 1, 1)


class PictureMetricContract:
    """What every metric of pairs of pictures promises."""

    @pytest.fixture(scope="class")
    def metric(self) -> PictureMetric:
        """The metric under test."""
        raise NotImplementedError("return your metric here")

    @pytest.fixture
    def pictures(self) -> torch.Tensor:
        """Pictures of noise, ``(n, 3, height, width)`` in [0, 1], no two of one brightness."""
        return _pictures()

    def test_a_pair_has_one_value(self, metric: PictureMetric, pictures: torch.Tensor) -> None:
        """Finite, in float64."""
        values = metric.compare(pictures, pictures.flip(0))
        assert values.dtype == np.float64
        assert values.shape == (COUNT,)
        assert np.isfinite(values).all()

    def test_equal_pictures_have_one_value_that_others_have_not(
        self, metric: PictureMetric, pictures: torch.Tensor
    ) -> None:
        """So that who reads a table knows what no change looks like."""
        same, others = metric.compare(pictures, pictures), metric.compare(pictures, pictures.flip(0))
        assert np.allclose(same, same[0], atol=1e-5)
        assert (np.abs(others - same[0]) > 1e-4).all()

    def test_a_pair_is_compared_the_same_in_any_company(self, metric: PictureMetric, pictures: torch.Tensor) -> None:
        """But for rounding."""
        others = pictures.flip(0)
        alone = [metric.compare(pictures[at : at + 1], others[at : at + 1])[0] for at in range(COUNT)]
        assert np.allclose(metric.compare(pictures, others), alone, atol=1e-5)


class SetMetricContract:
    """What every metric of sets of pictures promises.

    Attributes:
        name: key of the metric under test, or its file.
    """

    name: str

    @pytest.fixture(scope="class")
    def metric(self) -> SetMetric:
        """What embeds pictures for the metric under test."""
        raise NotImplementedError("return your metric here")

    @pytest.fixture
    def pictures(self) -> torch.Tensor:
        """Pictures of noise, ``(n, 3, height, width)`` in [0, 1], no two of one brightness."""
        return _pictures()

    @pytest.fixture
    def sets(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Two sets of float64 features ``(n, width)``, and the number of the prompt of each picture."""
        draws = np.random.default_rng(5)
        before = draws.normal(size=(PROMPTS * SEEDS, WIDTH))
        return before, before + draws.normal(1.0, 0.5, before.shape), np.repeat(np.arange(PROMPTS), SEEDS)

    def distances(self, *args: np.ndarray) -> np.ndarray:
        """What the function under test returns."""
        return np.asarray(plugins.function("metrics", self.name, "distances")(*args))

    def test_it_is_one_of_sets(self) -> None:
        """And says of itself what is asked for."""
        assert compares_sets(self.name)
        assert isinstance(metric_info(self.name), MetricInfo)

    def test_a_picture_has_one_row(self, metric: SetMetric, pictures: torch.Tensor) -> None:
        """Of float32, finite, and the same in any company but for rounding."""
        features = metric.embed_images(pictures)
        assert features.dtype == np.float32
        assert features.ndim == 2
        assert len(features) == COUNT
        assert np.isfinite(features).all()
        alone = np.concatenate([metric.embed_images(picture[None]) for picture in pictures])
        assert np.allclose(features, alone, atol=1e-4)

    def test_a_set_is_no_way_from_itself(self, sets: tuple[np.ndarray, np.ndarray, np.ndarray]) -> None:
        """An edit that changes nothing has distance 0, and another one more."""
        before, after, prompts = sets
        once = np.ones((1, PROMPTS))
        assert self.distances(before, before, prompts, once)[0] == pytest.approx(0.0, abs=1e-6)
        assert self.distances(before, after, prompts, once)[0] > 1e-6

    def test_it_is_as_far_there_as_back_in_any_order(self, sets: tuple[np.ndarray, np.ndarray, np.ndarray]) -> None:
        """Of the sets, of the pictures, and of the features of each."""
        before, after, prompts = sets
        once = np.ones((1, PROMPTS))
        there = self.distances(before, after, prompts, once)
        assert np.allclose(there, self.distances(after, before, prompts, once))
        order = np.random.default_rng(0).permutation(len(prompts))
        assert np.allclose(there, self.distances(before[order], after[order], prompts[order], once))
        assert np.allclose(there, self.distances(before[:, ::-1], after[:, ::-1], prompts, once))

    def test_a_prompt_without_weight_is_not_there(self, sets: tuple[np.ndarray, np.ndarray, np.ndarray]) -> None:
        """Each row of weights is a set of its own."""
        before, after, prompts = sets
        weights = np.ones((2, PROMPTS))
        weights[1, -1] = 0.0
        kept = prompts < PROMPTS - 1
        alone = self.distances(before[kept], after[kept], prompts[kept], np.ones((1, PROMPTS - 1)))
        found = self.distances(before, after, prompts, weights)
        assert found.shape == (2,)
        assert found[1] == pytest.approx(alone[0])
        assert found[0] != pytest.approx(found[1])

    def test_it_has_an_interval(self, sets: tuple[np.ndarray, np.ndarray, np.ndarray]) -> None:
        """The same one every time."""
        before, after, prompts = sets
        named = [f"prompt {number}" for number in prompts]
        found = set_distance(self.name, before, after, named)
        assert found == set_distance(self.name, before, after, named)
        assert found.value is not None
        assert found.low is not None
        assert found.high is not None
        assert found.low < found.high
