"""``export``: an edited model as a folder that plain diffusers loads."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from orchestrator.cli.options import Results, at_home


class TargetsName(StrEnum):
    """What an edit was fitted on: texts as published, or prompts paired with their donors."""

    PUBLISHED = "published"
    PAIRED = "paired"


def export(
    results: Results,
    out: Annotated[
        Path, typer.Argument(help="Folder to write; it must not exist yet.", metavar="FOLDER", callback=at_home)
    ],
    edit: Annotated[
        str | None, typer.Option(help="Id of an edit, or the start of it; default: the chosen edit.")
    ] = None,
    model: Annotated[str | None, typer.Option(help="Model, if several were edited.")] = None,
    attribute: Annotated[str | None, typer.Option(help="Attribute, if several were edited.")] = None,
    editor: Annotated[str | None, typer.Option(help="Editor, if several were used.")] = None,
    targets: Annotated[
        TargetsName | None, typer.Option(help="What the edit was fitted on, if the editor was used both ways.")
    ] = None,
) -> None:
    """Write an edited model for diffusers."""
    from orchestrator.runs.export import export_edit, find_edit
    from orchestrator.store import open_store

    store = open_store(results, create=False)
    wanted = {"model": model, "attribute": attribute, "editor": editor, "targets": targets and str(targets)}
    row = find_edit(store, edit, wanted)
    second = export_edit(store, row, out)
    print(f"{out}: {row.model} with {row.attribute} edited ({row.name}; {row.localization}, edit {row.edit_id[:12]})")
    if second is not None:
        print(f"the second stage, {second}, is as published and not in the folder; load it separately")
