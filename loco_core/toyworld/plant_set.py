"""The bundled set of plants by the place of parameters; ``python -m benchmarks.plants`` makes its tables."""

from pathlib import Path

PLANTED_TABLES = Path(__file__).parent / "plant_tables"
"""One Parquet a plant, with ``truth.json`` and ``card.json`` beside them, and traces, reports and more in folders."""
