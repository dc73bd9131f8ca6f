"""The tests and files of tests that pages of docs/reference/ name are there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]
DOCS = TESTS.parent / "docs" / "reference"


@pytest.mark.parametrize(("page", "least"), [("faults.md", 100), ("odd-inputs.md", 0)])
def test_every_test_that_a_page_names_is_there(page: str, least: int) -> None:
    text = (DOCS / page).read_text()
    named = set(re.findall(r"\b(test_\w+\.py)::(test_\w+)", text))
    files = set(re.findall(r"\b(test_\w+\.py)\b", text))
    assert len(named) >= least
    there = {
        (path.name, name)
        for path in TESTS.rglob("test_*.py")
        for name in re.findall(r"def (test_\w+)\(", path.read_text())
    }
    assert named - there == set()
    assert files - {name for name, _ in there} == set()
    folders = re.findall(r"\b(?:tests/)?((?:unit|integration|contracts|chaos|support)/[\w/]+\.py)\b", text)
    assert [path for path in folders if not (TESTS / path).is_file()] == []
