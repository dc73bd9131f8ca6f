"""The tutorials run from top to bottom, and what they show is what they say."""

from __future__ import annotations

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

TUTORIALS = sorted((Path(__file__).parents[2] / "docs" / "tutorials").glob("*.ipynb"))
KILOBYTES = 300
"""A page that is read in a browser, and kept in the history of the project."""


@pytest.mark.parametrize("path", TUTORIALS, ids=lambda path: path.stem)
def test_a_tutorial_runs(path: Path, tmp_path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(tmp_path)}}).execute()
    said = "".join(str(output) for cell in notebook.cells for output in cell.get("outputs", []))
    assert "Window(start=12, size=2)" in said, "the planted window"
    assert not list(tmp_path.iterdir()), "it writes to folders of its own"


@pytest.mark.parametrize("path", TUTORIALS, ids=lambda path: path.stem)
def test_a_tutorial_is_kept_as_it_ran_and_small(path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    assert sum(cell.outputs != [] for cell in cells) > len(cells) / 2
    assert path.stat().st_size < 1000 * KILOBYTES
