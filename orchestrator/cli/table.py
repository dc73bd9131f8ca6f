"""The one style of tables: drawn on a terminal, tab-separated values elsewhere; nothing is ever cut."""

from __future__ import annotations

import sys
from collections.abc import Collection, Iterable, Sequence
from typing import TYPE_CHECKING

from loco_core.errors import printable

if TYPE_CHECKING:
    from rich.table import Table


def show(
    columns: Sequence[str], rows: Sequence[Sequence[object]], *, title: str = "", right: Collection[str] = ()
) -> None:
    """Prints a table: on a terminal it is drawn, into a pipe or a file go tab-separated values under their names.

    Args:
        columns: their names.
        rows: what stands in them; None is shown as ``-``, and empty in tab-separated values.
        title: what stands above it on a terminal.
        right: columns of numbers.
    """
    if not sys.stdout.isatty():
        for row in (columns, *rows):
            print("\t".join("" if cell is None else _in_one_cell(str(cell)) for cell in row))
        sys.stdout.flush()
        return
    from rich.box import SIMPLE
    from rich.table import Table

    from orchestrator.face.terminal import console

    table = Table(title=title or None, title_justify="left", box=SIMPLE, pad_edge=False)
    for name in columns:
        # Folded, never cut: a name with its end missing is no name.
        table.add_column(name, justify="right" if name in right else "left", overflow="fold")
    for row in rows:
        table.add_row(*("-" if cell is None else printable(str(cell)) for cell in row))
    console().print(table)


def show_made(parts: Iterable[Table | str]) -> None:
    """Prints tables that were made elsewhere in the same style, each under its title, and sentences between them."""
    for part in parts:
        if isinstance(part, str):
            print(part)
            continue
        print(part.title)
        show([str(column.header) for column in part.columns], list(zip(*(c.cells for c in part.columns), strict=True)))


def _in_one_cell(text: str) -> str:
    return printable(text).replace("\n", "\\n")
