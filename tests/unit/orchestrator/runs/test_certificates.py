"""Where certificates are read from."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from loco_core.checking.certificate import BUNDLED
from orchestrator.runs.certificates import FOLDER, known_certificates


def test_those_of_the_working_directory_come_beside_those_that_ship(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / FOLDER).mkdir()
    shipped = known_certificates(tmp_path / "elsewhere")
    changed = sorted(BUNDLED.glob("*.json"))[0].read_text().replace('"diffusers": "0', '"diffusers": "1', 1)
    (tmp_path / FOLDER / "mine.json").write_text(changed)
    monkeypatch.chdir(tmp_path)
    assert len(known_certificates()) == len(shipped) + 1


def test_a_working_directory_that_is_gone_has_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    shutil.rmtree(gone)
    assert known_certificates() == known_certificates(tmp_path)
