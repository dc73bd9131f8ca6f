from __future__ import annotations

from loco_core.localizers import Localizer, argmin, attention_contribution, causal_tracing, window
from loco_core.testing.localizers import LocalizerContract
from loco_core.testing.traces import TraceLocalizerContract


class TestWindow(LocalizerContract):
    @property
    def localize(self) -> Localizer:
        return window.localize


class TestArgmin(LocalizerContract):
    @property
    def localize(self) -> Localizer:
        return argmin.localize


class TestAttentionContribution(TraceLocalizerContract):
    localizer = attention_contribution


class TestCausalTracing(TraceLocalizerContract):
    localizer = causal_tracing
