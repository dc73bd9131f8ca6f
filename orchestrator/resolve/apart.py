"""Calls a function in a process of its own: what needs torch for a moment leaves this process without it."""

from __future__ import annotations

import hashlib
import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar

from loco_core.errors import LocoError, ModelError

T = TypeVar("T")
LIBRARIES = ("torch", "diffusers", "transformers", "tokenizers")
_CHILD = "from orchestrator.resolve.apart import answer; answer()"


def apart(function: Callable[..., T], *args: Any) -> T:
    """Calls a function of a module in a process of its own, or here where torch is loaded already.

    Args:
        function: the function; it is found by its name in the other process.
        args: its arguments, which pickle can carry.

    Raises:
        LocoError: as the function itself raises it, with its ``loc``.
        ModelError: the process ended before it had an answer.
    """
    if "torch" in sys.modules:
        return function(*args)
    # The modules of this process, wherever it was started, and none of a folder that it happens to be in.
    path = os.pathsep.join(item or os.getcwd() for item in sys.path)
    done = subprocess.run(
        [sys.executable, "-P", "-c", _CHILD], input=pickle.dumps((function, args)), capture_output=True, check=False,
        env={**os.environ, "PYTHONPATH": path},
    )  # fmt: skip
    if done.returncode or not done.stdout:
        said = done.stderr.decode(errors="replace").strip().splitlines()
        why = said[-1] if said else f"it ended with {done.returncode}"
        raise ModelError(f"the process that was to check models has failed: {why}")
    found: T | LocoError = pickle.loads(done.stdout)
    if isinstance(found, LocoError):
        raise found
    return found


def answer() -> None:
    """Does, in the other process, what it is asked for on its standard input."""
    # Libraries may print.
    with os.fdopen(os.dup(1), "wb") as out:
        os.dup2(2, 1)
        function, args = pickle.load(sys.stdin.buffer)
        try:
            found = function(*args)
        except LocoError as error:
            found = error
        out.write(pickle.dumps(found))


def once(check: Callable[[Any], None], wanted: Any) -> None:
    """Checks something apart, unless this machine has found it right before: its user's cache folder remembers that.

    Args:
        check: a function that raises an error where something is wrong.
        wanted: what is to be checked: data whose ``repr`` says all that the answer depends on, but libraries.

    Raises:
        LocoError: as of `check`.
    """
    versions = [f"{name} {version(name)}" for name in ("loco-sweep", *LIBRARIES)]
    key = hashlib.sha256("\n".join([check.__qualname__, repr(wanted), *versions]).encode()).hexdigest()
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    mark = Path(cache) / "loco-sweep" / "checked" / key
    if mark.exists():
        return
    apart(check, wanted)
    try:
        mark.parent.mkdir(parents=True, exist_ok=True)
        mark.touch()
    except OSError:
        # Checked again next time, that is all.
        return
