from __future__ import annotations

from collections.abc import Callable
from functools import cache

import pyarrow as pa
import pytest

from orchestrator.store import make_table

Rows = dict[str, pa.Table]


@pytest.fixture(scope="session")
def unit() -> Callable[..., Rows]:
    """Makes the tables of a unit with a few cells, one of which failed."""

    @cache
    def make(unit_id: str, rows: int = 3, images: int = 0) -> Rows:
        cells = [
            {
                "unit_id": unit_id,
                "cell_id": f"{unit_id}-{i}",
                "image_id": f"i{i}",
                "model": "toy",
                "site_indices": [i, i + 1],
                "clip_score": 0.1 * i + len(unit_id),
                "status": "ok",
                "schema_version": 1,
            }
            for i in range(rows)
        ]
        kept = [{"unit_id": unit_id, "image_id": f"i{i}", "image": {"bytes": b"x" * 5000}} for i in range(images)]
        return {
            "scores": make_table("scores", cells),
            "failures": make_table("failures", [{"unit_id": unit_id, "cell_id": f"{unit_id}-bad", "error": "boom"}]),
            "embeddings": make_table(
                "embeddings", [{"unit_id": unit_id, "image_id": f"i{i}", "embedding": [0.5, 1.5]} for i in range(rows)]
            ),
            "images": make_table("images", kept),
        }

    return make
