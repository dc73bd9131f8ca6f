"""Reads YAML files into specs and says for every problem where it stands: ``file:line:column``."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from loco_core import plugins
from loco_core.errors import SpecError, did_you_mean, printable
from orchestrator.spec.overrides import override
from orchestrator.spec.places import beside
from orchestrator.spec.plain_yaml import Loc, YamlFile, cut, read
from orchestrator.spec.rules import Strict, expand, in_words
from orchestrator.spec.sweep import SweepSpec

Spec = TypeVar("Spec", bound=BaseModel)

SHOWN_PROBLEMS = 20


@dataclass(frozen=True)
class Source:
    """A file, and what a command says otherwise.

    Attributes:
        path: path of the file.
        overrides: values in place of its own, see `orchestrator.spec.overrides`.
        text: its content, where it was read already and cannot be read again; None reads the file.
    """

    path: Path
    overrides: tuple[str, ...] = ()
    text: str | None = None


def load_sweep(path: str | Path | Source) -> SweepSpec:
    """Reads and checks a sweep file; errors as of `load_yaml`. Who gives it names the Python files that it names."""
    spec = load_yaml(path, SweepSpec, "a sweep file")
    plugins.name(spec.all_files)
    return spec


def load_yaml(path: str | Path | Source, spec: type[Spec], what: str) -> Spec:
    """Reads and checks a file; places that it names are absolute from then on, see `orchestrator.spec.places`.

    Args:
        path: path of the YAML file, with or without overrides.
        spec: class of what it must hold.
        what: the file in words, for errors.

    Raises:
        SpecError: one line per problem, ``file:line:column: what is wrong; what was expected``.
    """
    file = _read(path, spec, what)
    data = file.data()
    try:
        content = json.dumps(data, allow_nan=True)
    except TypeError:
        raise SpecError(f"{file.path}:1:1: a key is no text; expected maps with text keys") from None
    try:
        return spec.model_validate_json(content, strict=True, context=beside(file.path))
    except ValidationError as error:
        found = _causes(file, error)
        lines = [_describe(file, spec, each) for each in found[:SHOWN_PROBLEMS]]
        more = len(found) - SHOWN_PROBLEMS
        raise SpecError(
            "\n".join([*lines, *([f"{file.path}: and {more:,} more problems"] if more > 0 else [])])
        ) from None


def place(path: str | Path | Source, loc: Loc) -> str:
    """Returns ``file:line:column`` of a value, for problems that only show when names are resolved; or its override.

    Args:
        path: path of a file that was read before.
        loc: keys and positions from the top, e.g. ``("attributes", 1)``.
    """
    file = _merged(path)
    return file.mark(file.at(loc))


def written(path: str | Path | Source, loc: Loc) -> str | None:
    """Returns a text as it stands in a file, where what it was made into no longer tells; None if there is none.

    Args:
        path: path of a file that was read before.
        loc: keys and positions from the top, as for `place`.
    """
    node = _merged(path).at(loc)
    return expand(str(node.value)) if isinstance(node, yaml.ScalarNode) else None


def _merged(path: str | Path | Source) -> YamlFile:
    """Reads a file again; what ``<<`` brings stands where it is brought to."""
    file = _read(path, SweepSpec, "a file")
    file.data()
    return file


def _read(path: str | Path | Source, spec: type[BaseModel], what: str) -> YamlFile:
    source = path if isinstance(path, Source) else Source(Path(path))
    names = ", ".join(name for name, field in spec.model_fields.items() if field.is_required())
    file = read(source.path, what, " and ".join(names.rsplit(", ", 1)), source.text)
    override(file, source.overrides)
    return file


def _causes(file: YamlFile, error: ValidationError) -> list[ErrorDetails]:
    """Returns the errors in the order of the file, without lists that only lack items because those are wrong."""
    errors = error.errors(include_url=False)
    holders = {e["loc"][:depth] for e in errors for depth in range(len(e["loc"]))}
    errors = [e for e in errors if e["type"] != "too_short" or e["loc"] not in holders]
    return sorted(errors, key=lambda e: file.at(_loc(e)).start_mark.index)


def _loc(error: ErrorDetails) -> Loc:
    return tuple(error["loc"]) + _rest(error)


def _rest(error: ErrorDetails) -> Loc:
    """Returns the keys by which a rule goes on from where it was broken."""
    return tuple(error.get("ctx", {}).get("loc", ()))


def _fields_at(spec: type[BaseModel], loc: Loc) -> list[str]:
    """Returns the keys known where ``loc`` points."""
    model = spec
    for part in loc:
        if isinstance(part, str) and part in model.model_fields:
            model = _model_in(model.model_fields[part].annotation) or model
    return list(model.model_fields)


def _example(spec: type[BaseModel], loc: Loc, value: Any) -> str:
    """Returns what could stand where a value stands in place of keys, from the examples of the keys."""
    model, field = spec, None
    for part in loc:
        if isinstance(part, str) and part in model.model_fields:
            field = model.model_fields[part]
            model = _model_in(field.annotation) or model
    if field is None or not field.examples:
        return ""
    own = model.model_fields.get(value) if isinstance(value, str) else None
    example = {value: own.examples[0]} if own is not None and own.examples else field.examples[0]
    text = yaml.safe_dump({str(loc[-1]): example}, default_flow_style=True, sort_keys=False, width=10_000)
    return f", such as {text.strip()[1:-1]}"


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
        if issubclass(spec, Strict) and (meant := spec.other_words.get(str(loc[-1]))) is not None:
            return f"{where}: unknown key {str(loc[-1])!r}; {meant}"
        hint = did_you_mean(str(loc[-1]), known)
        expected = "" if hint.startswith("; known") else f"; expected one of {', '.join(known)}"
        return f"{where}: unknown key {cut(repr(str(loc[-1])))}{expected}{hint}"
    if kind == "missing":
        return f"{where}: {written} is missing; expected a key {str(loc[-1])!r} here"
    if kind == "rule":
        # A rule names its key also where the file leaves it out.
        keys = [*filter(None, [_written(file, tuple(error["loc"]), missing=False)]), *map(str, _rest(error))]
        return ": ".join(filter(None, [where, ".".join(keys), error["msg"]]))
    if kind in ("model_type", "model_attributes_type"):
        return (
            f"{where}: {written}: {_shown(error['input'])} is wrong; expected keys{_example(spec, loc, error['input'])}"
        )
    if kind == "string_pattern_mismatch":
        return f"{where}: {written}: {_shown(error['input'])} is wrong; expected {in_words(error['ctx']['pattern'])}"
    expected = re.sub(r"^(Input|Tuple|List|String|Value) should (be |have )?| after validation.*$", "", error["msg"])
    hint = ""
    if kind == "literal_error":
        expected = re.sub(r"\b(True|False)\b", lambda found: found[0].lower(), expected)
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
