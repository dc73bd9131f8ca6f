from __future__ import annotations

import pytest

from loco_core.diffusion.model import LoadedModel
from loco_core.testing.tracers import TracerContract


class Bundled(TracerContract):
    @pytest.fixture(scope="class")
    def model(self, tiny_model: LoadedModel) -> LoadedModel:
        return tiny_model


class TestAttentionContribution(Bundled):
    tracer = "attention_contribution"


class TestCausalTracing(Bundled):
    tracer = "causal_tracing"
