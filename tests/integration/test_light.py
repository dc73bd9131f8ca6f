"""Commands as people start them: the process that drives has no torch in it, whatever its workers and checks have."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SWEEP = """
name: light
models: [toy]
attributes: [style/lumio]
windows: {sizes: [2], stride: 8}
prompts: 2
seeds: 2
generation: {steps: 2, guidance_scale: 3.0, batch_size: 16}
controls: {random: 0}
scorer: toy-clip
images: report
"""
HEAVY = ("torch", "diffusers", "transformers")
# Runs the command in this very process, and says at its end what was loaded.
SAY = (
    "import atexit, json, os, sys; heavy = json.loads(os.environ['HEAVY']);"
    "atexit.register(lambda: print(json.dumps([name for name in heavy if name in sys.modules]), file=sys.stderr));"
    "from orchestrator.cli.main import main; sys.argv[0] = 'loco-sweep'; main()"
)


def loaded_by(tmp_path: Path, *words: str | Path) -> list[str]:
    """Runs a command with an empty cache, so that what is checked once is checked now; what its process has loaded."""
    environment = {**os.environ, "HEAVY": json.dumps([*HEAVY, "ray", "scipy"]), "XDG_CACHE_HOME": str(tmp_path / "no")}
    done = subprocess.run(
        [sys.executable, "-c", SAY, *map(str, words)], capture_output=True, text=True, env=environment, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    found: list[str] = json.loads(done.stderr.strip().splitlines()[-1])
    return found


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """A folder with a sweep and its results, and what the process had loaded that drove them on Ray."""
    root = tmp_path_factory.mktemp("light")
    (root / "sweep.yaml").write_text(SWEEP)
    words = ("run", root / "sweep.yaml", "--results", root / "results", "--backend", "ray", "--workers", "1")
    return root, loaded_by(root, *words)


def test_the_driver_of_a_run_on_ray_loads_no_torch(swept: tuple[Path, list[str]]) -> None:
    root, loaded = swept
    assert "ray" in loaded
    assert not set(HEAVY) & set(loaded)
    assert any((root / "results" / "scores").glob("*.parquet"))


@pytest.mark.parametrize(
    ("words", "loaded"),
    [
        (["status", "results"], []),
        (["report", "results"], []),
        (["verify", "results"], []),
        (["localize", "results"], ["scipy"]),
        (["show", "results", "style/lumio"], []),
        (["compare", "results", "results"], ["scipy"]),
        (["plan", "sweep.yaml", "--results", "results"], ["scipy"]),
        (["schema", "sweep"], []),
        (["schema", "scores"], []),
    ],
    ids=lambda words: words[0] if words else "",
)
def test_commands_that_compute_nothing_load_no_torch(
    swept: tuple[Path, list[str]], tmp_path: Path, words: list[str], loaded: list[str]
) -> None:
    root, (command, *rest) = swept[0], words
    there = [root / word if (root / word).exists() else word for word in rest]
    assert loaded_by(tmp_path, command, *there) == loaded
