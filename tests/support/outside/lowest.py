"""A localizer: the window of the lowest mean score, by the paper's rule."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pyarrow as pa

from loco_core.localization.base import Localization, LocalizeSettings
from loco_core.localization.localizers import argmin


def localize(scores: pa.Table, settings: LocalizeSettings, site_names: Sequence[str] = ()) -> Localization:
    """Localizes under a name of its own."""
    found = argmin.localize(scores, settings, site_names)
    return replace(found, localizer="outside", reason=f"lowest: {found.reason}")
