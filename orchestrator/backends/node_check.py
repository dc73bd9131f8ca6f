"""What a node of a cluster must have for a sweep, looked at on that node: GPU, disk, packages, hub and results."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import tempfile
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal

from loco_core.errors import LocoError, first_line
from loco_core.versions import versions_of

PACKAGES = ("torch", "diffusers", "transformers", "ray", "pyarrow", "s3fs", "pydantic", "numpy", "scipy")
LEAST_BYTES = 2_000_000_000
GPU_SECONDS = 30
State = Literal["ok", "problem", "unknown"]


@dataclass(frozen=True)
class Finding:
    """What was found.

    Attributes:
        node: name of the node; ``here`` is the machine of the command.
        check: what was looked at.
        state: ``ok``, ``problem``, or ``unknown`` where it cannot be seen from here.
        details: a line for people.
    """

    node: str
    check: str
    state: State
    details: str


@dataclass(frozen=True)
class NodeCheck:
    """A check of a node; crosses to it by pickle.

    Attributes:
        results: results root, absolute.
        probe: path below it of a file that the driver has written; empty where results are not looked at.
        repositories: hub ids that the sweep loads.
        versions: versions of Python and packages of the driver.
        gpus: GPUs that Ray counts on the node.
    """

    results: str
    probe: str
    repositories: tuple[str, ...]
    versions: Mapping[str, str]
    gpus: int = 0

    def __call__(self, node: str) -> tuple[Finding, ...]:
        """Looks at the machine that it is called on."""
        checks: list[tuple[str, Callable[[], str]]] = [
            ("packages", self._packages), ("gpu", self._gpu), ("cache", _cache),
            *((repository, partial(readable, repository)) for repository in self.repositories),
        ]  # fmt: skip
        if self.probe:
            checks.append(("results", self._results))
        return tuple(found_by(node, name, check) for name, check in checks)

    def of_node(self, gpus: int) -> NodeCheck:
        """Returns the check of a node with a number of GPUs."""
        return replace(self, gpus=gpus)

    def _packages(self) -> str:
        here = versions()
        other = [
            f"{name} {here.get(name, 'missing')} (the driver has {theirs})"
            for name, theirs in self.versions.items() if here.get(name) != theirs
        ]  # fmt: skip
        if other:
            raise LocoError(f"{', '.join(other)}; expected the same on all nodes")
        return f"python {here['python']}, torch {here.get('torch')}, as the driver has them"

    def _gpu(self) -> str:
        words = ["nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"]
        lines: list[str] = []
        if shutil.which(words[0]):
            done = subprocess.run(words, capture_output=True, text=True, timeout=GPU_SECONDS, check=False)
            lines = done.stdout.strip().splitlines() if done.returncode == 0 else []
        if len(lines) < self.gpus:
            raise LocoError(f"Ray counts {self.gpus} GPUs, nvidia-smi shows {len(lines)}; expected as many")
        return "; ".join(lines) or "none"

    def _results(self) -> str:
        from orchestrator.store.errors import MissingFileError
        from orchestrator.store.opening import open_blobs

        own = f"{self.probe}-{uuid.uuid4().hex}"
        try:
            # The driver has made the folder; where it is missing, a mount is, and one of the same name would hide that.
            blobs = open_blobs(self.results, create=False)
            blobs.read(self.probe)
        except MissingFileError as error:
            raise LocoError(
                f"{self.results} is another folder here than where the command runs; expected one that all mount"
            ) from error
        blobs.put_if_absent(own, b"node", own)
        blobs.delete(own)
        return f"{self.results} can be read and written"


def versions() -> dict[str, str]:
    """Returns the versions of Python and of the packages that results depend on."""
    return {"python": platform.python_version(), **versions_of(PACKAGES)}


def _cache() -> str:
    from huggingface_hub import constants

    cache = Path(constants.HF_HUB_CACHE)
    there = next(path for path in (cache, *cache.parents) if path.exists())
    with tempfile.TemporaryFile(dir=there):
        free = shutil.disk_usage(there).free
    if free < LEAST_BYTES:
        raise LocoError(f"{free / 1e9:.1f} GB free at {cache}; expected at least {LEAST_BYTES / 1e9:.0f} GB")
    return f"{free / 1e9:.0f} GB free at {cache}"


def readable(repository: str) -> str:
    """Says how a repository of the hub may be read from here.

    Raises:
        ModelError: it may not.
    """
    from loco_core.diffusion.hub import check_readable

    check_readable(repository)
    return f"may be read{' with the token' if os.environ.get('HF_TOKEN') else ', without a token'}"


def found_by(node: str, name: str, check: Callable[[], str]) -> Finding:
    """Returns what a check finds, whatever it raises."""
    try:
        return Finding(node, name, "ok", check())
    except LocoError as error:
        return Finding(node, name, "problem", str(error))
    except Exception as error:  # whatever is broken on a machine; the line says what
        return Finding(node, name, "problem", f"{type(error).__name__}: {first_line(error)}")
