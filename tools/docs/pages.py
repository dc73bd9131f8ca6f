"""Which files follow from the code."""

from __future__ import annotations

from pathlib import Path

from orchestrator.spec import json_schema
from tools.docs import notebook
from tools.docs.commands import commands_page
from tools.docs.keys import keys_page
from tools.docs.models import models_page
from tools.docs.python_api import python_page
from tools.docs.tables import tables_page

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"


def pages() -> dict[str, bytes]:
    """Returns the content of every generated file, by its path in the project."""
    found: dict[str, bytes] = {}
    for kind in json_schema.KINDS:
        schema, name = json_schema.schema_of_models(kind).encode(), json_schema.file_name(kind)
        found |= {f"orchestrator/spec/schemas/{name}": schema, f"docs/reference/{name}": schema}
        found[f"docs/reference/{kind}.md"] = keys_page(kind)
    found |= {
        "docs/reference/commands.md": commands_page(),
        "docs/reference/tables.md": tables_page(),
        "docs/reference/models.md": models_page(),
        "docs/reference/python.md": python_page(),
    }
    for path in sorted((DOCS / "tutorials").glob("*.ipynb")):
        found |= {f"docs/tutorials/{name}": content for name, content in notebook.page(path).items()}
    return found
