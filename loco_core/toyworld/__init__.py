"""The bundled world, its trained models, and the planted ones whose truth is known."""

from pathlib import Path

PLANTED_TABLES = Path(__file__).parent / "planted_tables"
"""Scores of sweeps over the planted models, one Parquet a (model, attribute, set of seeds), and ``truth.json``."""
