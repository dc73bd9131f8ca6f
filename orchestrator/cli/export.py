"""``export``: an edited model as a folder that plain diffusers loads."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from orchestrator.cli.options import Results


def export(
    results: Results,
    out: Annotated[Path, typer.Argument(help="Folder to write; must not exist.", metavar="FOLDER")],
    edit: Annotated[
        str | None, typer.Option(help="Id of an edit, or its beginning; default: the chosen one, if there is one.")
    ] = None,
    model: Annotated[str | None, typer.Option(help="Model, where several were edited.")] = None,
    attribute: Annotated[str | None, typer.Option(help="Attribute, where several were edited.")] = None,
    editor: Annotated[str | None, typer.Option(help="Editor, where several were used.")] = None,
) -> None:
    """Write an edited model in diffusers' own format."""
    from orchestrator.exporting import export_edit, find_edit
    from orchestrator.store import open_store

    store = open_store(results, create=False)
    row = find_edit(store, edit, {"model": model, "attribute": attribute, "editor": editor})
    second = export_edit(store, row, out)
    print(f"{out}: {row.model} with {row.attribute} edited ({row.editor}, {row.localization}, edit {row.edit_id[:12]})")
    if second is not None:
        print(f"the second stage, {second}, is as published and not in the folder; load it beside")
