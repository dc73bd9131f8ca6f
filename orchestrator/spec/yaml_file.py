"""Reads YAML files into specs and says for every problem where it stands: ``file:line:column``."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from loco_core import registry
from loco_core.errors import SpecError, did_you_mean, printable
from orchestrator.spec.places import beside
from orchestrator.spec.plain_yaml import Loc, YamlFile, cut, read
from orchestrator.spec.sweep import SweepSpec

Spec = TypeVar("Spec", bound=BaseModel)

SHOWN_PROBLEMS = 20


def load_sweep(path: str | Path) -> SweepSpec:
    """Reads and checks a sweep file; errors as of `load_yaml`. Who gives it names the Python files that it names."""
    spec = load_yaml(path, SweepSpec, "a sweep file")
    registry.name(spec.files)
    return spec


def load_yaml(path: str | Path, spec: type[Spec], what: str) -> Spec:
    """Reads and checks a file; places that it names are absolute from then on, see `orchestrator.spec.places`.

    Args:
        path: of the YAML file.
        spec: what it must hold.
        what: the file in words, for errors.

    Raises:
        SpecError: one line a problem, ``file:line:column: what is wrong; what was expected``.
    """
    file = _read(Path(path), spec, what)
    data = file.data()
    try:
        content = json.dumps(data, allow_nan=True)
    except TypeError:
        raise SpecError(f"{path}:1:1: a key is no text; expected maps with text keys") from None
    try:
        return spec.model_validate_json(content, strict=True, context=beside(file.path))
    except ValidationError as error:
        found = _causes(file, error)
        lines = [_describe(file, spec, each) for each in found[:SHOWN_PROBLEMS]]
        more = len(found) - SHOWN_PROBLEMS
        raise SpecError("\n".join([*lines, *([f"{path}: and {more:,} more problems"] if more > 0 else [])])) from None


def place(path: str | Path, loc: Loc) -> str:
    """Returns ``file:line:column`` of a value, for problems that only show when names are resolved.

    Args:
        path: of a file that was read before.
        loc: keys and positions from the top, e.g. ``("attributes", 1)``.
    """
    file = _merged(path)
    return file.mark(file.at(loc))


def written(path: str | Path, loc: Loc) -> str | None:
    """Returns a text as it stands in a file, where what it was made into no longer tells; None if there is none.

    Args:
        path: of a file that was read before.
        loc: as of `place`.
    """
    node = _merged(path).at(loc)
    return str(node.value) if isinstance(node, yaml.ScalarNode) else None


def _merged(path: str | Path) -> YamlFile:
    """Reads a file again; what ``<<`` brings stands where it is brought to."""
    file = _read(Path(path), SweepSpec, "a file")
    file.data()
    return file


def _read(path: Path, spec: type[BaseModel], what: str) -> YamlFile:
    names = ", ".join(name for name, field in spec.model_fields.items() if field.is_required())
    return read(path, what, " and ".join(names.rsplit(", ", 1)))


def _causes(file: YamlFile, error: ValidationError) -> list[ErrorDetails]:
    """Returns the errors in the order of the file, without lists that only lack items because those are wrong."""
    errors = error.errors(include_url=False)
    holders = {e["loc"][:depth] for e in errors for depth in range(len(e["loc"]))}
    errors = [e for e in errors if e["type"] != "too_short" or e["loc"] not in holders]
    return sorted(errors, key=lambda e: file.at(_loc(e)).start_mark.index)


def _loc(error: ErrorDetails) -> Loc:
    return tuple(error["loc"]) + tuple(error.get("ctx", {}).get("loc", ()))


def _fields_at(spec: type[BaseModel], loc: Loc) -> list[str]:
    """Returns the keys known where ``loc`` points."""
    model = spec
    for part in loc:
        if isinstance(part, str) and part in model.model_fields:
            model = _model_in(model.model_fields[part].annotation) or model
    return list(model.model_fields)


def _model_in(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for arg in get_args(annotation) if (found := _model_in(arg))), None)


def _describe(file: YamlFile, spec: type[BaseModel], error: ErrorDetails) -> str:
    loc = _loc(error)
    written = _written(file, loc, missing=error["type"] == "missing")
    kind = error["type"]
    where = file.mark(file.at(loc, key=kind == "extra_forbidden"))
    if kind == "extra_forbidden":
        known = _fields_at(spec, loc[:-1])
        hint = did_you_mean(str(loc[-1]), known)
        expected = "" if hint.startswith("; known") else f"; expected one of {', '.join(known)}"
        return f"{where}: unknown key {cut(repr(str(loc[-1])))}{expected}{hint}"
    if kind == "missing":
        return f"{where}: {written} is missing; expected a key {str(loc[-1])!r} here"
    if kind == "rule":
        return f"{where}: {written}: {error['msg']}"
    expected = re.sub(r"^(Input|Tuple|List|String|Value) should (be |have )?| after validation.*$", "", error["msg"])
    hint = ""
    if kind == "literal_error" and isinstance(error["input"], str):
        hint = did_you_mean(error["input"], re.findall(r"'([^']*)'", expected))
        hint = "" if hint.startswith("; known") else hint
    return f"{where}: {written}: {_shown(error['input'])} is wrong; expected {expected}{hint}"


def _written(file: YamlFile, loc: Loc, *, missing: bool) -> str:
    """Returns the keys of ``loc`` as they stand in the file, without names of union members."""
    parts = [str(p) for i, p in enumerate(loc) if file.at(loc[: i + 1]) is not file.at(loc[:i])]
    return ".".join([*parts, str(loc[-1])] if missing else parts)


def _shown(value: Any) -> str:
    return cut(printable(json.dumps(value, ensure_ascii=False, default=str)))
