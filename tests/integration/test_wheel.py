"""The built wheel holds all that a run needs."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import sysconfig
import time
from pathlib import Path

import pytest

from tests.support.sweeps import unit_files

ROOT = Path(__file__).parents[2]
PIP = (sys.executable, "-m", "pip", "--disable-pip-version-check", "-q")
FIRST_SECONDS = 300
"""Until the first units are committed: a minute, and more on a machine that is busy with other tests."""
CODE = """\
import loco_core, orchestrator
assert all({source!r} not in m.__file__ and {site!r} in m.__file__ for m in (loco_core, orchestrator))
from loco_core.attributes import bundled
from loco_core.diffusion.facts import known_models
from orchestrator.cli.demo import SWEEP
from orchestrator.resolve.lookup import resolve
from orchestrator.spec import load_sweep
from orchestrator.presets import preset_file, presets
assert all(load_sweep(preset_file(name)).reproduces == name for name in presets())
assert len(bundled()) > 30
assert all(any(info.path.rglob('*.safetensors')) for _, info in known_models().values() if info.path)
assert resolve(load_sweep(SWEEP)).models[0].n_sites == 16
from orchestrator.spec.json_schema import KINDS, schema_text
assert all('"properties"' in schema_text(kind) for kind in KINDS)
from orchestrator.store import Store
from orchestrator.store.testing import MemoryBlobs
from orchestrator.viewing.page import ASSETS, asset
from orchestrator.viewing.server import Viewer
Viewer([Store(MemoryBlobs())])
assert all(asset(name) for name in ASSETS)
"""


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment with the wheel; what the project needs is borrowed from this one, the project itself is not."""
    folder = tmp_path_factory.mktemp("wheel")
    # A copy: building leaves folders behind, and what an older build left would be packed again.
    source = folder / "source"
    shutil.copytree(ROOT, source, ignore=shutil.ignore_patterns(".*", "build", "*.egg-info", "*results"))
    build = [*PIP, "wheel", "--no-deps", "--no-build-isolation", "--no-index", "-w", str(folder), str(source)]
    subprocess.run(build, check=True)
    (wheel,) = folder.glob("loco_sweep-*.whl")
    environment = folder / "environment"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(environment)], check=True)
    (site,) = environment.glob("lib/python*/site-packages")
    # A folder on the path that this adds is searched, its own .pth files are not read: they would add the checkout.
    (site / "borrowed.pth").write_text(f"{sysconfig.get_path('purelib')}\n{sysconfig.get_path('platlib')}\n")
    python = environment / "bin" / "python"
    subprocess.run([*PIP, "--python", str(python), "install", "--no-deps", "--no-index", str(wheel)], check=True)
    shutil.rmtree(source)
    return environment


@pytest.fixture
def alone(tmp_path: Path) -> dict[str, str]:
    """The variables of a person who has just installed it."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "RAY_", "LOCO"))}
    return {**kept, "HOME": str(tmp_path), "PYTHONSAFEPATH": "1"}


def test_the_wheel_works_without_the_checkout(scratch: Path, alone: dict[str, str], tmp_path: Path) -> None:
    code = CODE.format(source=str(ROOT), site=str(scratch))
    subprocess.run([scratch / "bin" / "python", "-c", code], check=True, cwd=tmp_path, env=alone)


def test_the_demo_of_the_wheel_computes_within_its_first_minute_and_stops_in_peace(
    scratch: Path, alone: dict[str, str], tmp_path: Path
) -> None:
    demo = [scratch / "bin" / "loco-sweep", "demo", "--workers", "1"]
    # A group of its own: only the driver is to be told to stop, as by Ctrl-C in a service.
    process = subprocess.Popen(
        demo, cwd=tmp_path, env=alone, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        start_new_session=True,
    )  # fmt: skip
    try:
        deadline = time.monotonic() + FIRST_SECONDS
        while not unit_files(tmp_path / "demo-results"):
            assert process.poll() is None, process.communicate()[0]
            assert time.monotonic() < deadline, "no unit was committed"
            time.sleep(0.2)
        process.send_signal(signal.SIGINT)
        said, _ = process.communicate(timeout=300)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == 4, said
    assert said.splitlines()[-1] == "the same command resumes"
    assert "Traceback" not in said
