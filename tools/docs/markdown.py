"""Markdown of generated pages."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

import yaml


def page(title: str, source: str, *parts: str) -> bytes:
    """Returns a page that says what it is made of.

    Args:
        title: its heading.
        source: what it follows from.
        parts: what stands below.
    """
    note = f"<!-- Written by `make docs` from {source}. Change it there. -->"
    return "\n\n".join([f"# {title}", note, *(part.strip("\n") for part in parts if part)]).encode() + b"\n"


def table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Returns a table."""
    lines = [columns, ["---"] * len(columns), *([cell(text) for text in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def cell(text: str) -> str:
    """Returns a text as it can stand in a table."""
    return re.sub(r"\s*\n\s*", " ", text).replace("|", "\\|")


def code(text: str) -> str:
    """Returns a text as code."""
    return f"`{text}`" if text else ""


def flow(value: object) -> str:
    """Returns a value as YAML in one line."""
    text = yaml.safe_dump(value, default_flow_style=True, width=10**6, sort_keys=False, allow_unicode=True)
    return text.removesuffix("\n").removesuffix("\n...")
