from __future__ import annotations

from loco_core.localization.base import Rule
from loco_core.localization.localizers import argmin, attention_contribution, causal_tracing, sequential, window
from loco_core.testing.localizers import LocalizerContract
from loco_core.testing.traces import TraceLocalizerContract


class TestWindow(LocalizerContract):
    @property
    def rule(self) -> Rule:
        return Rule(window.localize)


class TestSequential(LocalizerContract):
    @property
    def rule(self) -> Rule:
        return Rule(sequential.localize, sequential.begin)


class TestArgmin(LocalizerContract):
    @property
    def rule(self) -> Rule:
        return Rule(argmin.localize)


class TestAttentionContribution(TraceLocalizerContract):
    localizer = attention_contribution


class TestCausalTracing(TraceLocalizerContract):
    localizer = causal_tracing
