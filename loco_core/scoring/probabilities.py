"""From scores of classes to one name, or to none where two classes are too close."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

UNSURE = "unsure"


def softmax(logits: np.ndarray) -> np.ndarray:
    """Returns probabilities ``(n, classes)`` of logits of that shape, in float64."""
    values = logits.astype(np.float64)
    powers = np.exp(values - values.max(1, keepdims=True))
    found: np.ndarray = powers / powers.sum(1, keepdims=True)
    return found


def named_best(scores: np.ndarray, names: Sequence[str], abstain: float) -> list[str]:
    """Names the best class of each row; ``unsure`` where it is not ahead of the second by `abstain`.

    Args:
        scores: ``(n, classes)``; a row that is not finite is ``unsure``.
        names: names of the classes.
        abstain: least difference between the best and the second.
    """
    found = []
    for row in scores:
        order = np.argsort(-row, kind="stable")
        ahead = row[order[0]] - row[order[1]] if len(row) > 1 else np.inf
        # A comparison with not-a-number is false.
        found.append(names[order[0]] if np.isfinite(row).all() and ahead >= abstain else UNSURE)
    return found
