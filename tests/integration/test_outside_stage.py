"""A kind of work of somebody else's, in one folder beside the project: planned, run on Ray, killed and resumed."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
import yaml

from tests.support.clusters import COMMAND_SECONDS
from tests.support.sweeps import tiny_sweep, unit_files

PICTURES = 2 * 2 * 2  # attributes, prompts, seeds


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that holds the package as pip leaves it, for processes whose path it is on."""
    folder = tmp_path_factory.mktemp("site")
    shutil.copytree(Path(__file__).parents[1] / "support" / "brightness", folder / "brightness")
    about = folder / "brightness-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: brightness\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text("[loco_sweep.stages]\nbrightness = brightness\n")
    return folder


def sweep(model: Path, folder: Path, **settings: object) -> Path:
    spec = tiny_sweep(model, windows={"sizes": [1], "stride": 8}, controls={"random": 0})
    content = spec.model_dump(mode="json", exclude_unset=True)
    path = folder / "sweep.yaml"
    path.write_text(yaml.safe_dump({**content, "stages": {"brightness": settings}}))
    return path


def command(site: Path | None, *words: object) -> subprocess.Popen[str]:
    path = os.pathsep.join(filter(None, [str(site or ""), os.environ.get("PYTHONPATH")]))
    return subprocess.Popen(
        [sys.executable, "-m", "orchestrator.cli.main", *map(str, words)], env={**os.environ, "PYTHONPATH": path},
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
    )  # fmt: skip


def said(process: subprocess.Popen[str]) -> tuple[int, str]:
    output, _ = process.communicate(timeout=COMMAND_SECONDS)
    return process.returncode, output


def test_its_table_is_described_as_others_are(site: Path) -> None:
    code, output = said(command(site, "schema", "brightness", "--json"))
    assert code == 0, output
    mean = json.loads(output)[-1]
    assert mean == {"column": "mean", "type": "double", "unit": "0 .. 1", "meaning": "Mean of all pixel values"}
    assert "brightness\tOne row per picture of the sweep" in said(command(site, "schema"))[1]


def brightness(root: Path) -> pd.DataFrame:
    return pd.read_parquet(root / "brightness") if (root / "brightness").is_dir() else pd.DataFrame()


def done(root: Path) -> dict[str, int]:
    """Returns the units that are committed, and when each was written."""
    return {name: path.stat().st_mtime_ns for name, path in unit_files(root).items()}


def test_a_kind_of_work_from_outside_is_killed_resumed_and_published(
    site: Path, tiny_pipeline: Path, tmp_path: Path
) -> None:
    path, root = sweep(tiny_pipeline, tmp_path, seeds=2, pause=1.5), tmp_path / "results"
    code, planned = said(command(site, "plan", path))
    assert code == 0, planned
    run = ("run", path, "--results", root, "--workers", "1", "--threads", "1")
    first = command(site, *run)
    swept = 2 * 2 * 2  # attributes, prompts, seeds; one unit each
    deadline = time.monotonic() + COMMAND_SECONDS
    # One of its own is committed when there is one more than the sweep has.
    while len(done(root)) <= swept and first.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    os.killpg(first.pid, signal.SIGKILL)
    first.wait()
    before = done(root)
    assert swept < len(before) < swept + 4
    code, output = said(command(site, *run))
    assert code == 0, output
    found = brightness(root)
    assert len(found) == PICTURES
    assert not found.duplicated(["attribute", "prompt", "seed"]).any()
    assert found["mean"].between(0, 1).all()
    after = done(root)
    assert {name: after[name] for name in before} == before
    assert len(after) == swept + 4
    code, output = said(command(site, "verify", root))
    assert code == 0, output


def test_a_kind_of_work_that_is_not_installed_is_refused_before_anything_is_computed(
    site: Path, tiny_pipeline: Path, tmp_path: Path
) -> None:
    path = sweep(tiny_pipeline, tmp_path, seeds=2)
    code, output = said(command(None, "plan", path))
    assert (code, 'sweep.yaml:24:5: no stage "brightness" is installed\n' in output) == (2, True)
    path = sweep(tiny_pipeline, tmp_path, sides=2)
    code, output = said(command(site, "plan", path))
    assert (code, "no setting 'sides'; expected seeds and pause" in output) == (2, True)


def test_results_of_a_kind_of_work_that_is_not_installed_are_left_alone(
    site: Path, tiny_pipeline: Path, tmp_path: Path
) -> None:
    root, path = tmp_path / "results", sweep(tiny_pipeline, tmp_path, seeds=1)
    code, output = said(command(site, "run", path, "--results", root, "--backend", "inline"))
    assert code == 0, output
    before = {file: file.read_bytes() for file in root.rglob("*.parquet")}
    code, output = said(command(None, "verify", root, "--repair"))
    assert (code, "'brightness', which no kind of work that is installed here has" in output) == (1, True), output
    assert {file: file.read_bytes() for file in root.rglob("*.parquet")} == before
