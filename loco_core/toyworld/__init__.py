"""The bundled world, its trained models, and the planted ones whose truth is known."""

from pathlib import Path

PLANTED_TABLES = Path(__file__).parent / "planted_tables"
"""Scores of sweeps over the planted models, one Parquet a (model, attribute, set of seeds), and ``truth.json``."""
POPULATIONS = Path(__file__).parent / "populations"
"""Scores of 32 prompts x 12 seeds, one Parquet a (model, attribute): what designs of every size are drawn from."""
