"""Simulated score tables for tests of localizers."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from loco_core.localization.bench import Noise
from loco_core.types import Window

QUIET = Noise(prompt_full=0.005, window_prompt=0.001, window_seed=0.001, image=0.002, content=0.001)


def rows_of(scores: pa.Table, window: Window) -> np.ndarray:
    """Tells for every row whether it is one of a window."""
    mask = pc.and_(
        pc.equal(scores["control"].cast(pa.string()), "window"),
        pc.and_(pc.equal(scores["window_start"], window.start), pc.equal(scores["window_size"], window.size)),
    )
    return np.asarray(mask.fill_null(False))


def is_control(scores: pa.Table, control: str) -> np.ndarray:
    """Tells for every row whether it is one of a control."""
    return np.asarray(pc.equal(scores["control"].cast(pa.string()), control))
