"""``schema``: what the keys of a file and the columns of a table mean."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Annotated

import typer

from orchestrator.cli.options import JsonOption


def schema(
    name: Annotated[
        str | None, typer.Argument(help="sweep, cluster, or a table such as scores; without it all are listed.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Describe a file's keys or a table's columns."""
    from orchestrator.spec.json_schema import KINDS, schema_text

    for kind in KINDS:
        if name == kind:
            print(schema_text(kind), end="")
            return
    if name is None:
        from orchestrator.store.schemas import TABLES, about

        listed = [(kind, f"JSON Schema of {kind}.yaml") for kind in KINDS]
        _print(("name", "about"), [*listed, *((table, about(table)) for table in TABLES)], "Schemas", as_json=as_json)
        return
    _columns(name, as_json=as_json)


def _columns(name: str, *, as_json: bool) -> None:
    from loco_core.errors import SpecError, did_you_mean
    from orchestrator.spec.json_schema import KINDS
    from orchestrator.store.schemas import TABLES, about, columns_of

    if name not in TABLES:
        raise SpecError(f"there is no schema {name!r}{did_you_mean(name, [*KINDS, *TABLES])}")
    rows = [(column.name, str(column.type), column.unit, column.meaning) for column in columns_of(name)]
    _print(("column", "type", "unit", "meaning"), rows, f"{name}: {about(name)}", as_json=as_json)


def _print(columns: Sequence[str], rows: Sequence[Sequence[str]], title: str, *, as_json: bool) -> None:
    if as_json:
        print(json.dumps([dict(zip(columns, row, strict=True)) for row in rows], indent=1, ensure_ascii=False))
        return
    from orchestrator.cli import table

    table.show(columns, rows, title=title)
