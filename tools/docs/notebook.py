"""Tutorials as pages: notebooks with what they printed and drew when they ran."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat

TEXT = "text/plain"


def page(path: Path) -> dict[str, bytes]:
    """Returns the page of a notebook, and the pictures on it.

    Args:
        path: path of the notebook.

    Returns:
        content of every file, by its path from the folder of the notebook.
    """
    files: dict[str, bytes] = {}
    parts: list[str] = []
    for cell in nbformat.read(path, as_version=4).cells:
        if cell.cell_type == "markdown":
            parts.append(cell.source)
            continue
        parts.append(f"```python\n{cell.source}\n```")
        for output in cell.get("outputs", []):
            parts.extend(_shown(output, path.stem, files))
    title, *rest = parts
    heading, _, first = title.partition("\n")
    note = f"This page is a notebook, [{path.name}]({path.name}), with its output."
    text = "\n\n".join([heading, note, first.strip(), *rest])
    return {f"{path.stem}.md": f"{text}\n".encode(), **files}


def _shown(output: Any, stem: str, files: dict[str, bytes]) -> Iterator[str]:
    data = output.get("data", {})
    if "image/png" in data:
        name = f"{stem}/{len(files) + 1}.png"
        files[name] = base64.b64decode(data["image/png"])
        yield f"![What the cell draws]({name})"
    else:
        text = output.text if output.output_type == "stream" else data.get(TEXT, "")
        yield f"```text\n{text.rstrip()}\n```"
