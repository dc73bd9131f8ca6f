"""``doctor``: does this machine have what a sweep needs?"""

from __future__ import annotations

import os
import platform
import shutil
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import typer

from loco_core.errors import first_line

PACKAGES = ("torch", "diffusers", "transformers", "ray", "pyarrow", "s3fs", "pydantic", "numpy", "scipy")


def doctor() -> None:
    """Check packages, device, bundled weights, Ray and disk."""
    checks: dict[str, Callable[[], str]] = {
        "python": platform.python_version,
        **{name: lambda name=name: version(name) for name in PACKAGES},  # type: ignore[misc]
        "device": _device,
        "bundled models": _bundled,
        "ray": _ray,
        "disk": _disk,
    }
    bad = 0
    for name, check in checks.items():
        try:
            print(f"ok       {name}: {check()}")
        except PackageNotFoundError:
            bad += 1
            print(f"problem  {name}: not installed; `pip install -c constraints.txt loco-sweep` installs it")
        except Exception as error:  # a broken installation can raise anything; the line says what
            bad += 1
            print(f"problem  {name}: {type(error).__name__}: {first_line(error)}")
    if bad:
        raise typer.Exit(1)


def _device() -> str:
    import torch

    if torch.cuda.is_available():
        gpus = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
        return ", ".join(f"{gpu.name} {gpu.total_memory / 2**30:.0f} GiB" for gpu in gpus)
    return f"CPU, {len(os.sched_getaffinity(0))} cores; no GPU that torch sees"


def _bundled() -> str:
    from loco_core.models import known_models
    from loco_core.scorers import BUNDLED

    folders = [info.path for _, info in known_models().values() if info.path] + list(BUNDLED.values())
    missing = [folder.name for folder in folders if not any(folder.rglob("*.safetensors"))]
    if missing:
        raise FileNotFoundError(f"{', '.join(missing)} missing; `python -m loco_core.toyworld.train` makes them")
    return ", ".join(folder.name for folder in folders)


def _ray() -> str:
    from orchestrator.backends.ray import RayBackend

    backend = RayBackend(str, workers=1, threads=1)  # type: ignore[arg-type]
    backend.shutdown()
    return f"{version('ray')} starts and stops"


def _disk() -> str:
    free = shutil.disk_usage(Path.cwd()).free / 1e9
    if free < 2:
        raise OSError(f"{free:.1f} GB free here; expected at least 2 GB")
    return f"{free:.0f} GB free here"
