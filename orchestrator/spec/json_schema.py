"""JSON Schemas of sweep and cluster files, which editors complete and check files by.

They are made of the models and kept as files, so that reading one loads no model.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, get_args

Kind = Literal["sweep", "cluster"]
KINDS: tuple[Kind, ...] = get_args(Kind)
FOLDER = Path(__file__).parent / "schemas"


def file_name(kind: Kind) -> str:
    """Returns the name of the file with a schema."""
    return f"{kind}.schema.json"


def schema_text(kind: Kind) -> str:
    """Returns the JSON Schema of a kind of file, as it is kept."""
    return (FOLDER / file_name(kind)).read_text(encoding="utf-8")


def with_schemas(files: Mapping[str, bytes]) -> dict[str, bytes]:
    """Returns files that are to be written for a person, with what lets an editor complete and check them.

    ``sweep.yaml`` and ``cluster.yaml`` begin with a line that names the schema beside them: a file, so that it works
    without a network and wherever the folder goes.

    Args:
        files: content of the files, by name.

    Returns:
        the same, and the schemas.

    Example:
        >>> files = with_schemas({"sweep.yaml": b"name: first", "note.txt": b"Hello"})
        >>> sorted(files)
        ['note.txt', 'sweep.schema.json', 'sweep.yaml']
        >>> files["sweep.yaml"].decode().splitlines()
        ['# yaml-language-server: $schema=sweep.schema.json', 'name: first']
    """
    found = dict(files)
    for kind in KINDS:
        name = f"{kind}.yaml"
        if name in files:
            found[name] = f"# yaml-language-server: $schema={file_name(kind)}\n".encode() + files[name]
            found[file_name(kind)] = schema_text(kind).encode()
    return found


def schema_of_models(kind: Kind) -> str:
    """Returns the JSON Schema that follows from the models, for the file that is kept and the test that compares it."""
    from pydantic import BaseModel
    from pydantic.json_schema import GenerateJsonSchema

    from orchestrator.spec.cluster import ClusterSpec
    from orchestrator.spec.sweep import SweepSpec

    class Plain(GenerateJsonSchema):
        """Keys in their order, without a title per key, which says the key once more."""

        def field_title_should_be_set(self, schema: Any) -> bool:
            return False

        def sort(self, value: Any, parent_key: str | None = None) -> Any:
            return value

    models: dict[Kind, type[BaseModel]] = {"sweep": SweepSpec, "cluster": ClusterSpec}
    schema = {
        "$schema": GenerateJsonSchema.schema_dialect,
        **models[kind].model_json_schema(schema_generator=Plain),
        "title": f"{kind}.yaml of loco-sweep",
    }
    return json.dumps(schema, indent=1, ensure_ascii=False) + "\n"
