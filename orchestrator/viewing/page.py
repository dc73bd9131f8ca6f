"""The one page, with its styles and scripts, as a server sends it and as a bundle keeps it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from orchestrator.viewing.index import Shown

_HERE = Path(__file__).parent
ASSETS = {
    "page.css": "text/css", "data.js": "text/javascript", "cards.js": "text/javascript", "views.js": "text/javascript",
    "page.js": "text/javascript", "icon.svg": "image/svg+xml",
}  # fmt: skip
"""Files that the page loads, with their types."""


@cache
def asset(name: str) -> bytes:
    """Returns one of `ASSETS`."""
    return (_HERE / "static" / name).read_bytes()


def render(shown: Sequence[Shown], index: bytes | None = None) -> str:
    """Returns the page.

    Args:
        shown: the results.
        index: all that it shows, for a page that nobody serves; None lets it ask for that.
    """
    environment = Environment(
        loader=FileSystemLoader(_HERE / "templates"), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    # So that nothing in it ends the element that it stands in.
    data = Markup(index.decode().replace("<", "\\u003c")) if index is not None else None
    return environment.get_template("page.html").render(
        name=" and ".join(of.name for of in shown), roots=[of.store.root for of in shown], data=data,
        scripts=[name for name in ASSETS if name.endswith(".js")],
    )  # fmt: skip


def in_words(columns: Mapping[str, Any]) -> dict[str, str]:
    """Returns the columns of a picture as texts."""
    return {name: _text(value) for name, value in columns.items()}


def _text(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return f"{value:.4f}" if isinstance(value, float) else str(value)
