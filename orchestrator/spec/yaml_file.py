"""Reads YAML files and says for every problem where it stands: ``file:line:column``."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from loco_core import registry
from loco_core.errors import SpecError, did_you_mean
from orchestrator.spec.sweep import SweepSpec

Loc = tuple[str | int, ...]
Spec = TypeVar("Spec", bound=BaseModel)

MAX_BYTES = 16 * 2**20
MAX_NODES = 200_000
MAX_DEPTH = 40


class _Loader(yaml.SafeLoader):
    """Safe, and with the plain scalars of YAML 1.2: ``no`` is a word, ``1e-3`` a number, ``12:30`` text."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012 (PyYAML's own name)


for _tag, _pattern, _first in (
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("null", r"~|null|Null|NULL|", "~nN"),
    ("int", r"[-+]?(0|[1-9][0-9]*)", "-+0123456789"),
    (
        "float",
        r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
        "-+0123456789.",
    ),
    ("merge", r"<<", "<"),
):
    _resolver = re.compile(f"^(?:{_pattern})$")
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", _resolver, [*_first, *([""] if _tag == "null" else [])])


def load_sweep(path: str | Path) -> SweepSpec:
    """Reads and checks a sweep file; errors as of `load_yaml`. Who gives it names the Python files that it names."""
    spec = load_yaml(path, SweepSpec, "a sweep file")
    registry.name(spec.files)
    return spec


def load_yaml(path: str | Path, spec: type[Spec], what: str) -> Spec:
    """Reads and checks a file.

    Args:
        path: of the YAML file.
        spec: what it must hold.
        what: the file in words, for errors.

    Raises:
        SpecError: one line a problem, ``file:line:column: what is wrong; what was expected``.
    """
    root = _compose(Path(path), spec, what)
    repeated = [f"{_mark(path, key)}: key {key.value!r} is given twice; expected once" for key in _repeated_keys(root)]
    if repeated:
        raise SpecError("\n".join(repeated))
    try:
        data = _construct(root)
        return spec.model_validate_json(json.dumps(data, allow_nan=True), strict=True)
    except ValidationError as error:
        raise SpecError("\n".join(_describe(path, root, spec, e) for e in _causes(root, error))) from None
    except yaml.YAMLError as error:
        raise SpecError(_yaml_problem(path, error)) from None
    except (TypeError, ValueError) as error:
        raise SpecError(
            f"{path}:1:1: {error}; expected plain YAML: maps with text keys, lists, text, numbers"
        ) from None


def place(path: str | Path, loc: Loc) -> str:
    """Returns ``file:line:column`` of a value, for problems that only show when names are resolved.

    Args:
        path: of a file that was read before.
        loc: keys and positions from the top, e.g. ``("attributes", 1)``.
    """
    return _mark(path, _node_at(_compose(Path(path), SweepSpec, "a file"), loc))


def _compose(path: Path, spec: type[BaseModel], what: str) -> yaml.MappingNode:
    required = " and ".join(
        ", ".join(n for n, field in spec.model_fields.items() if field.is_required()).rsplit(", ", 1)
    )
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        siblings = [p.name for pattern in ("*.yaml", "*.yml") for p in path.parent.glob(pattern)]
        hint = did_you_mean(path.name, siblings) if siblings else ""
        raise SpecError(f"{path}: no such file; expected {what} in YAML{hint}") from None
    except OSError as error:
        raise SpecError(f"{path}: cannot be read ({error.strerror}); expected {what} in YAML") from None
    if len(raw) > MAX_BYTES:
        raise SpecError(f"{path}: {len(raw):,} bytes; expected {what} of at most {MAX_BYTES:,}")
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise SpecError(f"{path}: not a text file; expected {what} in YAML, UTF-8") from None
    try:
        root = yaml.compose(text, Loader=_Loader)
        if root is not None:
            _check_size(path, root)
    except yaml.YAMLError as error:
        raise SpecError(_yaml_problem(path, error)) from None
    if root is None:
        raise SpecError(f"{path}:1:1: the file is empty; expected at least {required}")
    if not isinstance(root, yaml.MappingNode):
        raise SpecError(f"{_mark(path, root)}: expected keys such as {required} at the top")
    return root


def _check_size(path: Path, root: yaml.Node) -> None:
    """Refuses files whose aliases expand without end, before anything expands them."""
    stack = [(root, 0)]
    count = 0
    while stack:
        node, depth = stack.pop()
        count += 1
        if count > MAX_NODES or depth > MAX_DEPTH:
            raise SpecError(f"{_mark(path, node)}: nested or repeated without end; expected a plain file")
        stack += [(child, depth + 1) for child in _children(node)]


def _children(node: yaml.Node) -> list[yaml.Node]:
    if isinstance(node, yaml.MappingNode):
        return [child for pair in node.value for child in pair]
    return list(node.value) if isinstance(node, yaml.SequenceNode) else []


def _repeated_keys(node: yaml.Node) -> Iterator[yaml.Node]:
    if isinstance(node, yaml.MappingNode):
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if key.value in seen:
                    yield key
                seen.add(key.value)
    for child in _children(node):
        yield from _repeated_keys(child)


def _construct(root: yaml.Node) -> Any:
    loader = _Loader("")
    try:
        return loader.construct_document(root)
    finally:
        loader.dispose()


def _mark(path: str | Path, node: yaml.Node) -> str:
    return f"{path}:{node.start_mark.line + 1}:{node.start_mark.column + 1}"


def _yaml_problem(path: str | Path, error: yaml.YAMLError) -> str:
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        mark = error.problem_mark
        problem = f"{path}:{mark.line + 1}:{mark.column + 1}: {error.problem}"
        if "\\t" in problem:
            return f"{problem}; expected spaces for indentation, not tabs"
        return f"{problem}; expected valid YAML"
    reason = getattr(error, "reason", None) or str(error).splitlines()[0]
    return f"{path}:1:1: {reason}; expected valid YAML"


def _node_at(root: yaml.Node, loc: Loc, *, key: bool = False) -> yaml.Node:
    """Returns the deepest node on the way that ``loc`` goes; parts that are not in the file are passed over.

    Args:
        root: of the file.
        loc: pydantic's, in which names of union members stand between keys.
        key: whether to return the last key in place of its value.
    """
    node = root
    for i, part in enumerate(loc):
        if isinstance(node, yaml.MappingNode):
            for name, value in node.value:
                if name.value == str(part):
                    node = name if key and i == len(loc) - 1 else value
                    break
        elif isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
            node = node.value[part]
    return node


def _causes(root: yaml.Node, error: ValidationError) -> list[ErrorDetails]:
    """Returns the errors in the order of the file, without lists that only lack items because those are wrong."""
    errors = error.errors()
    errors = [
        e
        for e in errors
        if e["type"] != "too_short" or not any(o["loc"][: len(e["loc"])] == e["loc"] for o in errors if o is not e)
    ]
    return sorted(errors, key=lambda e: _node_at(root, _loc(e)).start_mark.index)


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


def _describe(path: str | Path, root: yaml.Node, spec: type[BaseModel], error: ErrorDetails) -> str:
    loc = _loc(error)
    written = _written(root, loc, missing=error["type"] == "missing")
    kind = error["type"]
    where = _mark(path, _node_at(root, loc, key=kind == "extra_forbidden"))
    if kind == "extra_forbidden":
        known = _fields_at(spec, loc[:-1])
        hint = did_you_mean(str(loc[-1]), known)
        expected = "" if hint.startswith("; known") else f"; expected one of {', '.join(known)}"
        return f"{where}: unknown key {str(loc[-1])!r}{expected}{hint}"
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


def _written(root: yaml.Node, loc: Loc, *, missing: bool) -> str:
    """Returns the keys of ``loc`` as they stand in the file, without names of union members."""
    parts = [str(p) for i, p in enumerate(loc) if _node_at(root, loc[: i + 1]) is not _node_at(root, loc[:i])]
    return ".".join([*parts, str(loc[-1])] if missing else parts)


def _shown(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 60 else f"{text[:57]}..."
