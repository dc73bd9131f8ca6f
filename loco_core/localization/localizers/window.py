"""The smallest window that shows, with simultaneous confidence, that swapping it removes the attribute.

"The window with the lowest score" always exists; this localizer also says when there is none, and why.
"""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa

from loco_core.localization.base import Localization, LocalizeSettings, Request
from loco_core.localization.decision import decide, report
from loco_core.localization.estimates import estimate_windows
from loco_core.localization.score_table import read_scores

SHARE = "removed"


def localize(scores: pa.Table, settings: LocalizeSettings, site_names: Sequence[str] = ()) -> Localization:
    """Localizes one (model, attribute) from the whole grid, by the rules of `loco_core.localization.decision.decide`.

    Arguments and errors are those of `loco_core.localization.base.Localizer`.
    """
    estimates = estimate_windows(read_scores(scores, site_names), settings)
    decision = decide(estimates, settings)
    wants = tuple(Request("complement", window) for window in decision.complements)
    return report(estimates, decision, settings, wants)
