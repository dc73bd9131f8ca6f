"""The reference of tables and columns."""

from __future__ import annotations

from orchestrator.runs.certificates import TABLE as CHECKS
from orchestrator.store import layout
from orchestrator.store.schemas import TABLES, about, columns_of
from tools.docs.markdown import code, page, table

INTRODUCTION = """\
A results folder holds one folder per table, with Parquet files in it. Every file says the same as this page in the
metadata of its fields (`description`, `unit`), and `loco-sweep schema TABLE` prints it. The table `checks` alone is no
part of results: `loco-sweep check` writes it, in the working directory.

| table | one row per |
| --- | --- |
"""
RECIPE = """\
## Read a table with pandas

Results hold several models: pick one, and average within it. `window_start` is null where a picture has no window, so
that pandas makes floats of it, unless it keeps Arrow's types:

```python
# pandas, windows of one model
import pandas as pd

scores = pd.read_parquet(
    "results/first/scores",
    columns=["model", "attribute", "control", "window_size", "window_start", "status", "clip_score"],
    filters=[("model", "==", "toy"), ("control", "==", "window"), ("status", "==", "ok")],
    dtype_backend="pyarrow",
)
print(scores.pivot_table("clip_score", ["attribute", "window_size"], "window_start").round(3))
```

Columns and rows that `columns` and `filters` leave out are not read. A name that Python or SQL use themselves is
quoted: `edits["lambda"]`.
"""


def tables_page() -> bytes:
    """Returns the page of all tables of this project."""
    names = [name for name in TABLES if about(name) and name in (*layout.parted(), *layout.DERIVED, CHECKS)]
    listed = "\n".join(f"| [{name}](#{name}) | {about(name).removeprefix('One row per ')} |" for name in names)
    parts = [f"{INTRODUCTION}{listed}", RECIPE]
    for name in names:
        rows = ((code(each.name), code(str(each.type)), each.unit, each.meaning) for each in columns_of(name))
        parts += [f"## {name}", f"{about(name)}.", table(("column", "type", "unit", "meaning"), rows)]
    return page("Tables and columns", "`orchestrator/store/columns.py`", *parts)
