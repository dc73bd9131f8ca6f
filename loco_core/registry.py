"""Finds what a drawer holds: a drawer is a package folder, and a file's name in it is its key.

A third party adds an entry without touching this project: by an entry point in the group ``loco_sweep.<drawer>``, or by
naming a Python file (``./my_localizer.py``) where a key is asked for.

A file is executed once in a process, under a module name of its own, and stays what it was then until `look_again`: a
run has one version of it. The command line runs no file that a person has not named, see `only_named`.
"""

from __future__ import annotations

import hashlib
import importlib
import os
import pkgutil
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import ModuleType
from typing import Any

from loco_core.errors import SpecError, did_you_mean


@dataclass(frozen=True)
class _File:
    """A Python file as it was when it was executed."""

    source: bytes
    module: ModuleType

    @property
    def digest(self) -> str:
        return hashlib.sha256(self.source).hexdigest()


@dataclass
class _Leave:
    """Which files may be executed: those that a person named, or all of them where a person trusts the results."""

    say: Callable[[str], None]
    named: set[str] = field(default_factory=set)
    all: bool = False


_current: dict[Path, _File] = {}
_executed: dict[tuple[Path, str], _File] = {}
_leave: _Leave | None = None


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
        return _from_file(Path(key)).module
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


@contextmanager
def only_named(say: Callable[[str], None]) -> Iterator[None]:
    """Refuses, as long as it lasts, to execute files that no person named: results of somebody else name files, too.

    A program that hands a file's path to this module has named it itself, so that nothing is refused outside of this.

    Args:
        say: told, in a line, which file is executed on trust.
    """
    global _leave
    before, _leave = _leave, _Leave(say)
    try:
        yield
    finally:
        _leave = before


def name(files: Iterable[str]) -> None:
    """Notes files as named by a person; keys of drawers are passed over."""
    if _leave is not None:
        _leave.named.update(os.path.realpath(item) for item in files if item.endswith(".py"))


def trust() -> None:
    """Lets all files be executed that results name; each is told."""
    if _leave is not None:
        _leave.all = True


def look_again(keys: Iterable[str]) -> None:
    """Lets files be read again when they are asked for next; one with the same content is not executed again.

    Args:
        keys: of entries; those that are no Python files are passed over.
    """
    for key in keys:
        # A file that is gone stays what it was: a job's files lie in a folder that Ray may unpack anew while the job
        # runs, where several nodes are on one machine.
        if key.endswith(".py") and Path(key).is_file():
            _current.pop(Path(key).absolute(), None)


def digests(keys: Iterable[str]) -> dict[str, str]:
    """Returns the SHA-256 of files as this process executes them, by their paths as given; passes over other keys.

    Raises:
        SpecError: there is no such file, it cannot be imported, or nobody named it.
    """
    return {key: _from_file(Path(key)).digest for key in keys if key.endswith(".py")}


def hold(files: Iterable[tuple[str, str]]) -> None:
    """Makes sure that this process executes files as a run found them.

    Args:
        files: paths, each with its SHA-256 as of `digests`.

    Raises:
        SpecError: one is another file now, or cannot be imported.
    """
    for key, digest in files:
        path = _on_this_node(Path(key))
        if (known := _executed.get((path.absolute(), digest))) is not None:
            _current[path.absolute()] = known
            continue
        _check_named(path)
        # Looked at before it is executed: another file may be anybody's.
        source = _read(path)
        if (found := hashlib.sha256(source).hexdigest()) != digest:
            raise SpecError(
                f"{path} is not the file that this run began with ({found[:12]} here, {digest[:12]} there); "
                "leave it alone, or give it the same content everywhere, and start the run again"
            )
        _take(path, source)


def source(drawer: str, key: str) -> bytes:
    """Returns what an outside entry is executed from, or hashes of its files where they are several.

    It tells one version of an entry from another; empty of one of this project, which has versions of its own.

    Raises:
        SpecError: there is no such entry or file.
    """
    if key.endswith(".py"):
        return _from_file(Path(key)).source
    module = load(drawer, key)
    if module.__name__ == f"loco_core.{drawer}.{key}" or module.__file__ is None:
        return b""
    if not hasattr(module, "__path__"):
        return Path(module.__file__).read_bytes()
    package = Path(module.__file__).parent
    lines = (
        f"{file.relative_to(package).as_posix()} {hashlib.sha256(file.read_bytes()).hexdigest()}\n"
        for file in sorted(package.rglob("*.py"))
    )
    return "".join(lines).encode()


def _on_this_node(path: Path) -> Path:
    """Returns where a file of a job lies: in its working directory, which a node may unpack elsewhere by that name."""
    if not path.is_file():
        try:
            here = Path.cwd()
        except FileNotFoundError:
            # Ray unpacks a job's folder anew while the job runs, where several nodes share a machine.
            return path
        for folder in path.parents:
            if folder.name == here.name and (found := here / path.relative_to(folder)).is_file():
                return found
    return path


def _from_file(path: Path) -> _File:
    path = _on_this_node(path)
    _check_named(path)
    if (known := _current.get(path.absolute())) is not None:
        return known
    return _take(path, _read(path))


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        missing = isinstance(error, FileNotFoundError | NotADirectoryError)
        raise SpecError(f"no file {path}" if missing else f"{path} cannot be read: {error.strerror}") from None


def _take(path: Path, source: bytes) -> _File:
    """Executes a file, unless that was done before; it stays what it is from then on."""
    where = path.absolute()
    version = where, hashlib.sha256(source).hexdigest()
    if version not in _executed:
        _executed[version] = _File(source, _execute(path, source, version[1]))
    _current[where] = _executed[version]
    return _current[where]


def _check_named(path: Path) -> None:
    """Refuses a file that no person named."""
    if _leave is None or os.path.realpath(path) in _leave.named:
        return
    if not path.exists():
        # A job's folder is gone when it has ended; nobody is to trust a file that is not there.
        raise SpecError(f"no file {path}, which these results name")
    if not _leave.all:
        raise SpecError(
            f"these results name the Python file {path}, which would be run here; read it, then add --trust to the "
            "command, or name the file yourself, in your own sweep file or with --localizer"
        )
    _leave.named.add(os.path.realpath(path))
    _leave.say(f"running {path.absolute()}, which these results name")


def _execute(path: Path, source: bytes, digest: str) -> ModuleType:
    """Executes a file under a name that no other module has, whatever the file is called."""
    name = f"loco_sweep_file_{hashlib.sha256(f'{path.absolute()} {digest}'.encode()).hexdigest()[:16]}"
    module = ModuleType(name)
    module.__file__ = str(path)
    # Dataclasses and pickle look their module up there.
    sys.modules[name] = module
    try:
        exec(compile(source, str(path), "exec", dont_inherit=True), module.__dict__)
    except BaseException as error:  # whatever a stranger's file raises while it is imported
        del sys.modules[name]
        if isinstance(error, SyntaxError):
            raise SpecError(f"{path}:{error.lineno}:{error.offset}: {error.msg}; expected Python") from error
        if isinstance(error, KeyboardInterrupt):
            raise
        reason = " ".join(str(error).split())
        raise SpecError(f"{path} cannot be imported: {type(error).__name__}: {reason}") from error
    return module
