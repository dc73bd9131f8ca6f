"""Finds what a drawer holds: a drawer is a package folder, and a file's name in it is its key.

A third party adds an entry without touching this project: by an entry point in the group ``loco_sweep.<drawer>``, or by
naming a Python file (``./my_localizer.py``) where a key is asked for.
"""

from __future__ import annotations

import importlib
import importlib.util
import pkgutil
import sys
from collections.abc import Callable
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import ModuleType
from typing import Any

from loco_core.errors import SpecError, did_you_mean

_loaded: dict[Path, ModuleType] = {}


def keys(drawer: str) -> tuple[str, ...]:
    """Returns the keys of a drawer (``models``, ``scorers``, ...) without importing its files."""
    package = importlib.import_module(f"loco_core.{drawer}")
    own = {module.name for module in pkgutil.iter_modules(package.__path__) if not module.name.startswith("_")}
    return tuple(sorted(own | set(_points(drawer, tuple(sys.path)))))


def load(drawer: str, key: str) -> ModuleType:
    """Imports one entry of a drawer.

    Args:
        drawer: e.g. ``localizers``.
        key: its name, or the path of a Python file.

    Raises:
        SpecError: there is no such entry or file.
    """
    if key.endswith(".py"):
        return _from_file(_on_this_node(Path(key)))
    if (point := _points(drawer, tuple(sys.path)).get(key)) is not None:
        module = point.load()
        if not isinstance(module, ModuleType):
            raise SpecError(
                f'entry point "{key}" of loco_sweep.{drawer} must name a module, not {type(module).__name__}'
            )
        return module
    if key not in keys(drawer):
        raise SpecError(f'no {drawer.removesuffix("s")} "{key}"{did_you_mean(key, keys(drawer))}')
    return importlib.import_module(f"loco_core.{drawer}.{key}")


def function(drawer: str, key: str, name: str) -> Callable[..., Any]:
    """Returns one function of an entry, e.g. ``localize`` of a localizer.

    Raises:
        SpecError: there is no such entry, or it has no such function.
    """
    found: Callable[..., Any] | None = getattr(load(drawer, key), name, None)
    if not callable(found):
        raise SpecError(f'{key} has no function "{name}", which every file of {drawer} has')
    return found


@cache
def _points(drawer: str, path: tuple[str, ...]) -> dict[str, EntryPoint]:
    """Returns a drawer's entry points by name: looking through all that is installed takes tens of milliseconds.

    Args:
        drawer: e.g. ``localizers``.
        path: where Python looks for packages; what is installed changes with it.
    """
    return {point.name: point for point in entry_points(group=f"loco_sweep.{drawer}")}


def _on_this_node(path: Path) -> Path:
    """Returns where a file of a job lies: in its working directory, which a node may unpack elsewhere by that name."""
    here = Path.cwd()
    return here / path.name if not path.is_file() and path.parent.name == here.name else path


def _from_file(path: Path) -> ModuleType:
    if not path.is_file() and path in _loaded:
        # Of a job, whose folder Ray may unpack anew under its feet where several nodes run on one machine.
        return _loaded[path]
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if not path.is_file() or spec is None or spec.loader is None:
        raise SpecError(f"no file {path}")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except SyntaxError as error:
        raise SpecError(f"{path}:{error.lineno}:{error.offset}: {error.msg}; expected Python") from error
    except Exception as error:  # whatever a stranger's file raises while it is imported
        raise SpecError(f"{path} cannot be imported: {type(error).__name__}: {error}") from error
    _loaded[path] = module
    return module
