from __future__ import annotations

from loco_core.localizers import Localizer, argmin, window
from loco_core.testing.localizers import LocalizerContract


class TestWindow(LocalizerContract):
    @property
    def localize(self) -> Localizer:
        return window.localize


class TestArgmin(LocalizerContract):
    @property
    def localize(self) -> Localizer:
        return argmin.localize
