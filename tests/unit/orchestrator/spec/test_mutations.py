"""A part of the mutants of `tests.support.mutations`; all of them are gone through by hand, see ``tests/chaos``."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support import mutations

MUTANTS = 3000


@pytest.mark.usefixtures("_offline")
def test_whatever_is_wrong_in_a_file_is_said_in_clean_lines(tmp_path: Path) -> None:
    tally = mutations.judge(range(1_000_000, 1_000_000 + MUTANTS), tmp_path)
    assert tally.bad == []
    refused = tally.seen["sweep, refused"] + tally.seen["cluster, refused"]
    planned = tally.seen["sweep, valid, planned"]
    # Of both there must be many: else all mutants die of the same, or of nothing.
    assert refused > MUTANTS / 2
    assert planned > MUTANTS / 100
    assert sum(tally.seen.values()) == MUTANTS


def test_every_piece_in_place_of_every_key_is_read_or_refused(tmp_path: Path) -> None:
    """Without chance: each piece as the value of ``name``, of a list, of a map and of a number."""
    file = tmp_path / "sweep.yaml"
    for piece in mutations.NASTY:
        for key in ("name", "models", "windows", "prompts", "results"):
            lines = [line for line in mutations.EVERYTHING.split("\n") if line and line[0] not in " -"]
            text = "\n".join(f"{key}: {piece}" if line.startswith(f"{key}:") else line for line in lines)
            file.write_bytes(text.encode("utf-8", "surrogatepass"))
            assert mutations.check("sweep", file)
