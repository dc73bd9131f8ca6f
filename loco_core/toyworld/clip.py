"""The bundled CLIP model: a scorer by its name."""

from loco_core.scoring.scorers.clip import TOKENIZED as TOKENIZED
from loco_core.scoring.scorers.clip import Scorer as Scorer
from loco_core.toyworld import SIDE as SIDE
from loco_core.toyworld import WEIGHTS as _WEIGHTS

WEIGHTS = _WEIGHTS / "clip"
