"""``export``: an edit as a pipeline or a LoRA that plain diffusers loads, or as its new weights."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from loco_core.errors import SpecError
from orchestrator.cli.options import Results, at_home


class TargetsName(StrEnum):
    """What an edit was fitted on: texts as published, or prompts paired with their donors."""

    PUBLISHED = "published"
    PAIRED = "paired"


class FormatName(StrEnum):
    """What is written."""

    FOLDER = "folder"
    LORA = "lora"
    DELTA = "delta"


class NamingName(StrEnum):
    """How a LoRA names modules."""

    DIFFUSERS = "diffusers"
    KOHYA = "kohya"


def export(
    results: Results,
    out: Annotated[
        Path, typer.Argument(help="Folder to write; it must not exist yet.", metavar="FOLDER", callback=at_home)
    ],
    edit: Annotated[
        str | None, typer.Option(help="Id of an edit, or the start of it; default: the chosen edit.")
    ] = None,
    model: Annotated[str | None, typer.Option(help="Model, if several were edited.")] = None,
    attribute: Annotated[
        list[str] | None,
        typer.Option(
            help="Attribute, if several were edited; given several times, the edit that was fitted to these together."
        ),
    ] = None,
    editor: Annotated[str | None, typer.Option(help="Editor, if several were used.")] = None,
    targets: Annotated[
        TargetsName | None, typer.Option(help="What the edit was fitted on, if the editor was used both ways.")
    ] = None,
    form: Annotated[
        FormatName,
        typer.Option(
            "--format",
            help="Whole edited pipeline, a LoRA of what changes, or the new weights with their provenance.",
        ),
    ] = FormatName.FOLDER,
    naming: Annotated[
        NamingName | None,
        typer.Option(help="Names of a LoRA's modules: as diffusers (default) or as kohya's scripts for UNets."),
    ] = None,
    energy: Annotated[
        float | None, typer.Option(help="Share of the change's energy that a LoRA keeps at least; default: 0.999.")
    ] = None,
    rank: Annotated[
        int | None, typer.Option(min=1, help="Rank of a LoRA; default: the smallest that keeps the energy.")
    ] = None,
) -> None:
    """Write an edited model or an edit for others.

    FOLDER gets a model card, README.md.
    """
    from loco_core.editing.card import size
    from loco_core.editing.export import ExportSettings
    from loco_core.editing.lora import LoraSettings
    from orchestrator.runs.export import export_edit, find_edit

    given = {"--naming": naming, "--energy": energy, "--rank": rank}
    if form != "lora" and (named := [name for name, value in given.items() if value is not None]):
        raise SpecError(f"{named[0]} is of a LoRA; expected --format lora beside it")
    default = LoraSettings()
    lora = LoraSettings(
        default.naming if naming is None else naming.value, default.energy if energy is None else energy, rank
    )
    from orchestrator.store import open_store

    store = open_store(results, create=False)
    wanted = {"model": model, "editor": editor, "targets": targets and str(targets)}
    row = find_edit(store, edit, wanted, attribute or ())
    done = export_edit(store, row, out, ExportSettings(form.value, lora))
    print(f"{out}: {row.model} with {row.attribute} edited ({row.name}; {row.localization}, edit {row.edit_id[:12]})")
    if done.written.file:
        kept = f": {done.written.in_words}" if done.written.in_words else ""
        print(f"{done.written.file}, {size(done.written.bytes)}{kept}")
    if done.second_stage is not None:
        print(f"the second stage, {done.second_stage}, is as published and not in the folder; load it separately")
