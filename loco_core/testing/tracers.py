"""The contract of a tracer, to be inherited by the tests of one.

class TestMine(TracerContract):
    tracer = "./mine.py"

    @pytest.fixture(scope="class")
    def model(self) -> LoadedModel:
        return load_model("stable_diffusion", "A_SMALL_PIPELINE", None, "float32", "cpu")
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
import torch

from loco_core import plugins
from loco_core.diffusion.generate import generate
from loco_core.diffusion.model import LoadedModel
from loco_core.tracing.base import Cost, Trace, TracedModel, tracer_info
from loco_core.types import Generation, PromptRecord, Row

SETTINGS = Generation(steps=2, guidance_scale=3.0)
MOST = 16
"""Rows that a forward pass may have."""
ITEMS = tuple(
    (PromptRecord(prompt, donor, prompt, donor, "", "t0"), seed)
    for prompt, donor in (
        ("a red circle in the style of lumio", "a red circle"),
        ("a blue star in the style of velor", "a blue star"),
    )
    for seed in (0, 1)
)


class TracerContract:
    """What every tracer promises.

    Attributes:
        tracer: key of the tracer under test, or its file.
    """

    tracer: str

    @pytest.fixture(scope="class")
    def model(self) -> LoadedModel:
        """A small pipeline that the tracer admits."""
        raise NotImplementedError("return a small loaded pipeline here")

    def cost(self, model: LoadedModel, pairs: int = len(ITEMS)) -> Cost:
        """What it takes to trace so many prompts and seeds."""
        layers = sum(
            2 * getattr(model.pipeline, component).config.num_hidden_layers for component in model.facts.clip_encoders
        )
        return tracer_info(self.tracer).cost(TracedModel(model.facts, len(model.sites), layers), pairs, MOST)

    def traced(self, model: LoadedModel, items: Sequence[tuple[PromptRecord, int]] = ITEMS) -> list[Trace]:
        """The traces of some prompts and seeds."""
        trace = plugins.function("tracers", self.tracer, "trace")
        return list(trace(model, items, SETTINGS, self.cost(model).batch_size))

    def test_the_model_is_admitted(self, model: LoadedModel) -> None:
        """So that what follows says something."""
        assert tracer_info(self.tracer).refuses(model.facts) == ""

    @pytest.mark.parametrize("pairs", [1, 5, 64])
    def test_it_says_what_it_takes(self, model: LoadedModel, pairs: int) -> None:
        """Within what a forward pass may have."""
        cost = self.cost(model, pairs)
        assert 1 <= cost.batch_size <= MOST
        assert cost.images >= 1
        assert 1 <= cost.together <= cost.batch_size

    def test_every_prompt_and_seed_has_the_same_rows(self, model: LoadedModel) -> None:
        """Each once: a table holds one value per prompt, seed, control and layer."""
        keys = [(row.item, row.control, row.layer) for row in self.traced(model)]
        assert len(set(keys)) == len(keys)
        of_each = [{key[1:] for key in keys if key[0] == number} for number in range(len(ITEMS))]
        assert all(of_each)
        assert all(rows == of_each[0] for rows in of_each)

    def test_it_yields_what_it_says(self, model: LoadedModel) -> None:
        """Pictures, or finite numbers."""
        scores = tracer_info(self.tracer).scores
        for row in self.traced(model, ITEMS[:1]):
            if scores:
                assert row.picture is not None
                assert row.picture.ndim == 3
            else:
                assert row.value is not None
                assert math.isfinite(row.value)

    def test_the_same_again(self, model: LoadedModel) -> None:
        """Traces that are missing are made later, beside those that are there."""
        first, second = self.traced(model, ITEMS[:1]), self.traced(model, ITEMS[:1])
        assert [(row.control, row.layer, row.value) for row in first] == [
            (row.control, row.layer, row.value) for row in second
        ]
        for one, two in zip(first, second, strict=True):
            assert (one.picture is None) == (two.picture is None)
            assert one.picture is None or two.picture is None or torch.equal(one.picture, two.picture)

    def test_leaves_the_model_as_it_is(self, model: LoadedModel) -> None:
        """No hook stays."""
        row = [Row(ITEMS[0][0].prompt, ITEMS[0][0].donor, 1)]
        (before,) = generate(model, row, SETTINGS, 1)
        self.traced(model, ITEMS[:1])
        (after,) = generate(model, row, SETTINGS, 1)
        assert torch.equal(before.images, after.images)
