"""The smallest window that shows, with simultaneous confidence, that swapping it removes the attribute.

"The window with the lowest score" always exists; this localizer also says when there is none, and why.
"""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa

from loco_core.evidence import gather
from loco_core.localizers import Localization, LocalizeSettings, Request
from loco_core.score_table import read_scores
from loco_core.verdict import judge, report


def localize(scores: pa.Table, settings: LocalizeSettings, site_names: Sequence[str] = ()) -> Localization:
    """Localizes one (model, attribute) from the whole grid, by the rules of `loco_core.verdict.judge`.

    Arguments and errors are those of `loco_core.localizers.Localizer`.
    """
    evidence = gather(read_scores(scores, site_names), settings)
    verdict = judge(evidence, settings)
    wants = tuple(Request("complement", window) for window in verdict.complements)
    return report(evidence, verdict, settings, site_names, "window", wants)
