"""The reference of sweep.yaml and cluster.yaml: every key, from the models behind them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel

from orchestrator.spec import ClusterSpec, SweepSpec
from orchestrator.spec.json_schema import Kind, file_name, schema_of_models
from tools.docs.markdown import code, flow, page, table

Schema = dict[str, Any]
ELSEWHERE = {"sweep": "[sweep.yaml](sweep.md)"}
"""Keys whose own keys have a page of their own."""
MODELS: dict[Kind, type[BaseModel]] = {"sweep": SweepSpec, "cluster": ClusterSpec}
ABOUT: dict[Kind, str] = {
    "sweep": "Says what is swept: models x attributes x windows x prompts x seeds.",
    "cluster": "Says where a sweep runs: the sweep, the place of its results, and the workers.",
}
BOUNDS = {
    "minimum": "at least {}",
    "maximum": "at most {}",
    "exclusiveMinimum": "above {}",
    "exclusiveMaximum": "below {}",
}
LARGE = 10**7
"""A bound above this only keeps numbers exact."""


def keys_page(kind: Kind) -> bytes:
    """Returns the page of a kind of file."""
    schema: Schema = json.loads(schema_of_models(kind))
    title = f"{kind}.yaml"
    note = (
        f"{ABOUT[kind]} An unknown key is an error. [{file_name(kind)}]({file_name(kind)}) is the same as a JSON "
        f"Schema, which editors complete and check files by; `loco-sweep init` writes it next to the files, and "
        f"`loco-sweep schema {kind}` prints it."
    )
    editors = (
        f"A file of your own gets the same from two steps: `loco-sweep schema {kind} > {file_name(kind)}`, and "
        f"`# yaml-language-server: $schema={file_name(kind)}` as its first line."
    )
    variables = (
        "Names and paths may hold `${env:NAME}`, the value of an environment variable. [Paths](paths.md) says where "
        "relative paths begin."
    )
    lists = "A key that takes one mapping or a list of them has one table below: the same keys hold for both."
    parts = [editors, variables, *([lists] if kind == "sweep" else [])]
    for path, text in _sections(schema, schema, ""):
        parts += [f"## {path}" if path else f"## Keys of {title}", text]
    return page(title, "the models in `orchestrator/spec/`", note, *parts)


def _sections(whole: Schema, part: Schema, path: str) -> Iterator[tuple[str, str]]:
    """Yields a table per mapping with fixed keys, by the path of the mapping."""
    rows, below = [], []
    for name, found in part["properties"].items():
        here = f"{path}.{name}" if path else name
        inner = list(_inside(whole, found, here))
        below += inner
        kind = kind_of(whole, found)
        if inner:
            kind += f": [{inner[0][0]}](#{anchor(inner[0][0])})" if here not in ELSEWHERE else f": {ELSEWHERE[here]}"
        default = "required" if name in part.get("required", ()) else _default(found)
        examples = "<br>".join(code(flow(example)) for example in found.get("examples", ()))
        rows.append((code(name), kind, default, found["description"], examples))
    yield path, table(("key", "value", "default", "meaning", "example"), rows)
    for inside, schema in below:
        if inside not in ELSEWHERE:
            yield from _sections(whole, schema, inside)


def anchor(path: str) -> str:
    """Returns the anchor of a section."""
    return path.replace(".", "").replace("[", "").replace("]", "").lower()


def _inside(whole: Schema, part: Schema, path: str) -> Iterator[tuple[str, Schema]]:
    """Yields the mappings with fixed keys that a value may be, or hold."""
    if "$ref" in part:
        yield path, whole["$defs"][part["$ref"].rsplit("/", 1)[1]]
    found = [
        inside for each in (*part.get("anyOf", ()), *part.get("oneOf", ())) for inside in _inside(whole, each, path)
    ]
    # One mapping or a list of them: the same keys, which are said once.
    single = [schema for where, schema in found if where == path]
    yield from (each for each in found if each[0] == path or each[1] not in single)
    if isinstance(part.get("items"), dict):
        yield from _inside(whole, part["items"], f"{path}[]")
    if isinstance(part.get("additionalProperties"), dict):
        yield from _inside(whole, part["additionalProperties"], f"{path}.NAME")


def kind_of(whole: Schema, part: Schema) -> str:
    """Says in words what a value may be."""
    if choices := [*part.get("anyOf", ()), *part.get("oneOf", ())]:
        return " or ".join(dict.fromkeys(kind_of(whole, each) for each in choices if each.get("type") != "null"))
    if "$ref" in part:
        return "mapping"
    if "const" in part:
        return code(flow(part["const"]))
    if "enum" in part:
        return ", ".join(code(each) for each in part["enum"])
    bounds = _bounds({key: part[key] for key in BOUNDS if part.get(key, LARGE) < LARGE})
    if part["type"] == "array":
        if "prefixItems" in part:
            return f"[{', '.join(kind_of(whole, each) for each in part['prefixItems'])}]"
        return f"list of {kind_of(whole, part['items'])}"
    if part["type"] == "object":
        # `true` where any value will do.
        values = part.get("additionalProperties")
        return f"mapping of {kind_of(whole, values)}" if isinstance(values, dict) and values else "mapping"
    word = {"integer": "whole number", "number": "number", "string": "text", "boolean": "true or false"}[part["type"]]
    if part.get("multipleOf"):
        bounds += f", a multiple of {part['multipleOf']:g}"
    return f"{word} ({bounds})" if bounds else word


def _bounds(found: Schema) -> str:
    if found.keys() >= {"minimum", "maximum"}:
        return f"{found['minimum']:,} to {found['maximum']:,}"
    return ", ".join(words.format(f"{found[key]:,}") for key, words in BOUNDS.items() if key in found)


def _default(found: Schema) -> str:
    """Returns a default; of mappings it is that of their keys, and where there is none, the meaning says so."""
    value = found.get("default")
    nested = isinstance(value, dict) or (isinstance(value, list) and any(isinstance(each, dict) for each in value))
    return "" if value is None or nested else code(flow(value))
