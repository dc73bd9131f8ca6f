"""Models, LoRAs and words that are none or do not fit: one line of the command, before anything is drawn."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from tests.support.checkpoint_cases import WRONG
from tests.support.checkpoints import build_all
from tests.support.sweeps import Command

LONGEST = 900
SWEEP = {
    "name": "wrong", "attributes": ["style/velor"], "windows": {"sizes": [1], "stride": 8}, "prompts": 1, "seeds": 1,
    "generation": {"steps": 2, "guidance_scale": 3.0, "batch_size": 2, "height": 32, "width": 32}, "scorer": "toy-clip",
    "controls": {"identity": False, "all_sites": False, "random": 0}, "images": "none",
}  # fmt: skip


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_all(tmp_path_factory.mktemp("checkpoints"))


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


@pytest.mark.usefixtures("offline")
@pytest.mark.parametrize("case", WRONG, ids=lambda name: name.replace(" ", "-"))
def test_what_is_wrong_is_one_line_of_plan_and_run(
    case: str, home: Path, tmp_path: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    build, expected = WRONG[case]
    file = tmp_path / "sweep.yaml"
    file.write_text(yaml.safe_dump({**SWEEP, "models": [{"id": "mine", **build(home, tmp_path)}]}))
    # Paths are those of the file's folder, not of the working directory.
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    for words in (("plan", file), ("run", file, "--backend", "inline", "--results", tmp_path / "results")):
        code, out, err = command(*words)
        assert code in (1, 2), (out, err)
        (line,) = (line for line in err.splitlines() if line.strip())
        assert re.search(expected, line), line
        assert len(line) < LONGEST
    assert not (tmp_path / "results" / "scores").exists()
