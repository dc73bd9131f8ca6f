"""Checks the bundled models again, and replaces the certificates that ship with the project.

``python -m tools.certificates`` runs ``loco-sweep check`` for each of them.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from loco_core.checking.certificate import BUNDLED
from loco_core.diffusion.facts import known_models
from orchestrator.runs.certificates import FOLDER


def main() -> None:
    """Runs the command, and takes over what it wrote."""
    for name in (name for name, (_, info) in known_models().items() if info.path is not None):
        with TemporaryDirectory() as scratch:
            words = (sys.executable, "-m", "orchestrator.cli.main", "check", name, "--device", "cpu")
            subprocess.run([*words, "--output", scratch], check=True)
            (made,) = Path(scratch, FOLDER).iterdir()
            shutil.copyfile(made, BUNDLED / f"{name}.json")


if __name__ == "__main__":
    main()
