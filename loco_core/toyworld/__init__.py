"""The bundled world, its trained models, and the planted ones whose truth is known.

What others find here is said in ``entry_points.txt``, as of any package that adds plug-ins.
"""

from pathlib import Path

_HERE = Path(__file__).parent
WEIGHTS = _HERE / "weights"
"""Folders of the trained models, of the CLIP model and of the judge."""
ATTRIBUTES = _HERE / "attributes.yaml"
"""Attributes of the bundled world."""
PLANTED_TABLES = _HERE / "planted_tables"
"""Scores of sweeps over the planted models, one Parquet per (model, attribute, set of seeds), and ``truth.json``."""
POPULATIONS = _HERE / "populations"
"""Scores of 32 prompts x 12 seeds, one Parquet per (model, attribute): what designs of every size are drawn from."""
SIDE = 64
"""Side in pixels of its pictures: attributes and scorers of it mean nothing in others."""
CLIP = "toy-clip"
JUDGE = "toy-judge"
