"""The trained models by name, each with the family that draws it and the seconds of one image of 50 steps."""

from __future__ import annotations

from loco_core.diffusion.facts import ModelInfo
from loco_core.toyworld import WEIGHTS

# Measured in float32: the UNets on two CPU cores in batches of 64, the transformers on one core in batches of 32.
_UNETS = dict.fromkeys(("toy", "toy-planted-a", "toy-planted-b", "toy-planted-c"), ("stable_diffusion", 0.15))
_TRANSFORMERS = dict.fromkeys(("toy-dit", "toy-dit-planted"), ("pixart", 0.5))
MODELS = {
    name: (family, ModelInfo(seconds, path=WEIGHTS / name))
    for name, (family, seconds) in {**_UNETS, **_TRANSFORMERS, "toy-mmdit": ("sd3", 0.1)}.items()
}
