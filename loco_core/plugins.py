"""Finds plug-ins: of each group (``localizers``, ..) the files of one folder, whose names are their keys.

A third party adds one without touching this project: by an entry point in the group ``loco_sweep.<group>``, or by
naming a Python file (``./my_localizer.py``) where a key is asked for. A package inside this project adds to groups by
entry points too: they stand in its ``entry_points.txt``, in the form that pip gives those of others.

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
from configparser import ConfigParser
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

from loco_core.errors import SpecError, did_you_mean

GROUPS = {
    "families": "loco_core.diffusion.families",
    "scorers": "loco_core.scoring.scorers",
    "localizers": "loco_core.localization.localizers",
    "editors": "loco_core.editing.editors",
    "judges": "loco_core.scoring.judges",
    "metrics": "loco_core.scoring.metrics",
    "tracers": "loco_core.tracing.tracers",
    "attacks": "loco_core.attacking.attacks",
    "hooks": "orchestrator.hooks.adapters",
    "models": "",
    "pipelines": "",
    "attributes": "",
    "tables": "",
}
"""The package whose files are plug-ins of each group; empty where entry points alone add to it.

``models`` are names of models, ``pipelines`` classes of pipelines that diffusers does not have, ``attributes`` YAML
files of them, ``tables`` score tables whose truth is known.
"""
ENTRY_POINTS = "entry_points.txt"
_SINGULAR = {"families": "family"}


T = TypeVar("T")


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


def keys(group: str) -> tuple[str, ...]:
    """Returns the keys of a group (``families``, ``scorers``, ...) without importing its files."""
    return tuple(sorted({*_own(group), *_points(group, tuple(sys.path))}))


def modules(group: str) -> tuple[ModuleType, ...]:
    """Imports every entry of a group.

    Raises:
        SpecError: an entry point names no module.
    """
    return tuple(load(group, key) for key in keys(group))


def load(group: str, key: str) -> ModuleType:
    """Imports one entry of a group.

    Args:
        group: e.g. ``localizers``.
        key: its name, or the path of a Python file.

    Raises:
        SpecError: there is no such entry or file.
    """
    if key.endswith(".py"):
        return _from_file(Path(key)).module
    if (point := _points(group, tuple(sys.path)).get(key)) is not None:
        module = point.load()
        if not isinstance(module, ModuleType):
            raise SpecError(
                f'entry point "{key}" of loco_sweep.{group} must name a module, not {type(module).__name__}'
            )
        return module
    if key not in keys(group):
        raise SpecError(f'no {_SINGULAR.get(group, group.removesuffix("s"))} "{key}"{did_you_mean(key, keys(group))}')
    return importlib.import_module(f"{GROUPS[group]}.{key}")


def function(group: str, key: str, name: str) -> Callable[..., Any]:
    """Returns one function of an entry, e.g. ``localize`` of a localizer.

    Raises:
        SpecError: there is no such entry, or it has no such function.
    """
    found: Callable[..., Any] | None = getattr(load(group, key), name, None)
    if not callable(found):
        raise SpecError(f'{key} has no function "{name}", which every file of {group} has')
    return found


def declared(group: str, key: str, name: str, default: T) -> T:
    """Returns what an entry says of itself, e.g. ``READS`` of a localizer.

    Args:
        group: e.g. ``localizers``.
        key: its name, or the path of a Python file.
        name: what is asked for.
        default: what holds where the entry does not say.

    Raises:
        SpecError: there is no such entry, or it says something of another type than the default.
    """
    found = getattr(load(group, key), name, default)
    if not isinstance(found, type(default)):
        raise SpecError(f"{key}: {name} is {found!r}; expected {_article(type(default).__name__)}")
    return found


def _article(word: str) -> str:
    return f"{'an' if word[0] in 'aeiouAEIOU' else 'a'} {word}"


@cache
def _own(group: str) -> frozenset[str]:
    """Returns the names of the files of a group's own package."""
    if not GROUPS[group]:
        return frozenset()
    found = pkgutil.iter_modules(importlib.import_module(GROUPS[group]).__path__)
    return frozenset(module.name for module in found if not module.name.startswith("_"))


@cache
def _points(group: str, path: tuple[str, ...]) -> dict[str, EntryPoint]:
    """Returns a group's entry points by name: looking through all that is installed takes tens of milliseconds.

    Args:
        group: e.g. ``localizers``.
        path: where Python looks for packages; what is installed changes with it.
    """
    section = f"loco_sweep.{group}"
    installed = {point.name: point for point in entry_points(group=section)}
    return {**{point.name: point for point in _shipped() if point.group == section}, **installed}


@cache
def _shipped() -> tuple[EntryPoint, ...]:
    """Returns the entry points of packages inside this project."""
    found = []
    for file in sorted(Path(__file__).parent.glob(f"*/{ENTRY_POINTS}")):
        parser = ConfigParser(delimiters="=")
        # Names keep their letters.
        parser.optionxform = str  # type: ignore[assignment,method-assign]
        parser.read_string(file.read_text(encoding="utf-8"))
        for section in parser.sections():
            found += [EntryPoint(name, value, section) for name, value in parser[section].items()]
    return tuple(found)


def outside(group: str) -> dict[str, str]:
    """Returns the modules of a group that are installed beside this project, by key; imports none of them."""
    return {name: point.value for name, point in _points(group, tuple(sys.path)).items()}


def outside_module(group: str, key: str) -> str:
    """Returns the module of an outside plug-in.

    Raises:
        SpecError: none of that name is installed.
    """
    known = outside(group)
    if key not in known:
        kind = _SINGULAR.get(group, group.removesuffix("s"))
        raise SpecError(f'no {kind} "{key}" is installed{did_you_mean(key, known)}')
    return known[key]


@contextmanager
def only_named(say: Callable[[str], None]) -> Iterator[None]:
    """Refuses, as long as it lasts, to execute files that no person named: results of somebody else name files, too.

    A program that hands a file's path to this module has named it itself, so that nothing is refused outside of this.

    Args:
        say: called with a line that names the file that is executed on trust.
    """
    global _leave
    before, _leave = _leave, _Leave(say)
    try:
        yield
    finally:
        _leave = before


def name(files: Iterable[str]) -> None:
    """Notes files as named by a person; keys of groups are passed over."""
    if _leave is not None:
        _leave.named.update(os.path.realpath(item) for item in files if item.endswith(".py"))


def trust() -> None:
    """Lets all files be executed that results name; each is reported."""
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


def source(group: str, key: str) -> bytes:
    """Returns what an outside entry is executed from, or hashes of its files where they are several.

    It tells one version of an entry from another; empty of one of this project, which has versions of its own.

    Raises:
        SpecError: there is no such entry or file.
    """
    if key.endswith(".py"):
        return _from_file(Path(key)).source
    module = load(group, key)
    if key in _own(group) or module.__name__.startswith(f"{__package__}.") or module.__file__ is None:
        return b""
    if not hasattr(module, "__path__"):
        return Path(module.__file__).read_bytes()
    package = Path(module.__file__).parent
    lines = (
        f"{file.relative_to(package).as_posix()} {hashlib.sha256(file.read_bytes()).hexdigest()}\n"
        for file in sorted(package.rglob("*.py"))
    )
    return "".join(lines).encode()


def identity(group: str, key: str, weights: str = "") -> str:
    """Returns what an entry is called in results: its name, and a hash that tells versions of an outside one apart.

    Args:
        group: name of the group.
        key: key of the entry, or a Python file.
        weights: hash of weights that belong to it; empty where it has none.

    Raises:
        SpecError: there is no such entry or file.
    """
    own = Path(key).stem if key.endswith(".py") else key
    version = source(group, key) + weights.encode()
    return f"{own}@{hashlib.sha256(version).hexdigest()[:8]}" if version else own


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
