"""A kind of work of somebody else's: how bright the sweep's own pictures are, one row of a table per picture."""

import pyarrow as pa

TABLES = {
    "brightness": pa.schema(
        [
            ("unit_id", pa.string()), ("model", pa.string()), ("attribute", pa.string()), ("prompt", pa.string()),
            ("seed", pa.int64()),
            pa.field("mean", pa.float64(), metadata={"unit": "0 .. 1", "description": "Mean of all pixel values"}),
        ],
        metadata={"description": "One row per picture of the sweep"},
    )
}  # fmt: skip
