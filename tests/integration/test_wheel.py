"""The built wheel holds all that a run needs."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_the_wheel_works_without_the_checkout(tmp_path: Path) -> None:
    # A copy: building leaves folders behind, and what an older build left would be packed again.
    source = tmp_path / "source"
    shutil.copytree(ROOT, source, ignore=shutil.ignore_patterns(".*", "build", "*.egg-info", "*results"))
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "-q"]
    build = [*pip, "wheel", "--no-deps", "--no-build-isolation", "--no-index", "-w", str(tmp_path), str(source)]
    subprocess.run(build, check=True)
    (wheel,) = tmp_path.glob("loco_sweep-*.whl")
    target = tmp_path / "site"
    subprocess.run([*pip, "install", "--no-deps", "--no-index", "--target", str(target), str(wheel)], check=True)
    code = (
        "import loco_core, orchestrator\n"
        f"assert all(m.__file__.startswith({str(target)!r}) for m in (loco_core, orchestrator))\n"
        "from loco_core.attributes import bundled\n"
        "from loco_core.models import known_models\n"
        "from orchestrator.cli.demo import SWEEP\n"
        "from orchestrator.resolve import resolve\n"
        "from orchestrator.spec import load_sweep\n"
        "from orchestrator.presets import preset_file, presets\n"
        "assert all(load_sweep(preset_file(name)).reproduces == name for name in presets())\n"
        "assert len(bundled()) > 30\n"
        "assert all(any(info.path.rglob('*.safetensors')) for _, info in known_models().values() if info.path)\n"
        "assert resolve(load_sweep(SWEEP)).models[0].n_sites == 16\n"
        "from orchestrator.store import Store\n"
        "from orchestrator.store.testing import MemoryBlobs\n"
        "from orchestrator.viewing.server import Viewer\n"
        "Viewer(Store(MemoryBlobs()))\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(target), "PYTHONSAFEPATH": "1"}
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path, env=environment)
