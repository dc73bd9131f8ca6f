"""FID: distance of two sets of pictures as Gaussians of their features (Heusel et al., NeurIPS 2017, equation 6).

On features of a vision model of transformers, not on those of Inception: **values are not comparable with published
ones**, only with others on the same weights. Of few pictures they are too large, and by far where there are no more
pictures than features.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from loco_core.scoring.metric import MetricInfo
from loco_core.scoring.vision import MODEL_TYPES, VisionModel
from loco_core.statistics import Floats

if TYPE_CHECKING:
    from loco_core.scoring.metric import Numbers


def _lacks(pictures: int, width: int) -> str:
    """Says that a covariance of more features than pictures is none."""
    if pictures > width:
        return ""
    return f"biased: {pictures} pictures, and {width} features need more than as many"


INFO = MetricInfo(
    weights="",
    model_types=MODEL_TYPES,
    lacks=_lacks,
    least=0.0,
    text="FID (Heusel et al., NeurIPS 2017) on features of the named model: not comparable with values on Inception.",
)
Metric = VisionModel


def distances(before: Floats, after: Floats, prompts: Numbers, weights: Floats) -> Floats:
    """See `loco_core.scoring.metric.Distances`."""
    return np.array([_distance(before, after, row[prompts]) for row in weights])


def _distance(before: Floats, after: Floats, times: Floats) -> float:
    drawn, count = times > 0, times.sum()
    if count < 2:
        return float("nan")
    roots, means = list[Floats](), list[Floats]()
    for features in (before[drawn], after[drawn]):
        mean = times[drawn] @ features / count
        # The covariance is root.T @ root.
        root = (features - mean) * np.sqrt(times[drawn] / (count - 1))[:, None]
        roots.append(np.asarray(np.linalg.qr(root, mode="r")) if len(root) > root.shape[1] else root)
        means.append(mean)
    # The trace of the square root of a product of covariances is the sum of these singular values.
    shared = float(np.linalg.norm(roots[0] @ roots[1].T, "nuc"))
    apart = ((means[0] - means[1]) ** 2).sum() + (roots[0] ** 2).sum() + (roots[1] ** 2).sum() - 2 * shared
    return float(max(apart, 0.0))
