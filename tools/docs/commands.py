"""The reference of the command line, from the commands themselves."""

from __future__ import annotations

import re
from typing import Any

import typer.main
from typer.cli import get_docs_for_click

from orchestrator.cli.main import GROUPS, app
from tools.docs.markdown import page, table

INTRODUCTION = (
    "`loco-sweep COMMAND --help`, or `-h`, prints the same. [Exit codes](exit-codes.md) are the same for every command."
)


def commands_page() -> bytes:
    """Returns the page of all commands."""
    group: Any = typer.main.get_command(app)
    parts = []
    for title, commands in GROUPS.items():
        rows = ((f"[{name}](#loco-sweep-{name})", _summary(group.commands[name])) for name, _ in commands)
        parts.append(table((title, "what it does"), rows))
    parts += [
        get_docs_for_click(obj=command, ctx=typer.Context(group), indent=1, name=name, call_prefix="loco-sweep")
        for name, command in group.commands.items()
    ]
    return page("Commands", "the commands in `orchestrator/cli/`", INTRODUCTION, *parts)


def _summary(command: Any) -> str:
    return re.sub(r"\s+", " ", (command.help or "").split("\n\n")[0])
