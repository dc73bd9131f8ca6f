"""The reference of the Python API: public names with their docstrings, read without importing anything."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import griffe

from tools.docs.markdown import code, page, table

ROOT = Path(__file__).parents[2]
PACKAGES = ("loco_core", "orchestrator")
KEYWORDS = (griffe.ParameterKind.keyword_only, griffe.ParameterKind.var_positional)
"""Kinds of a parameter after which others are by keyword anyway."""
INTRODUCTION = """\
Everything else in the two packages may change without notice. `loco_core` works in one process with one model;
`orchestrator` runs and reads sweeps. Both are imported in milliseconds; torch is loaded when it is first needed."""


def python_page() -> bytes:
    """Returns the page of all public names."""
    loader = griffe.GriffeLoader(search_paths=[ROOT], docstring_parser=griffe.Parser.google)
    parts = [INTRODUCTION]
    for name in PACKAGES:
        package = loader.load(name)
        loader.resolve_aliases()
        parts += [f"## {name}", *_docstring(package)]
        names = [export for export in package.exports or () if isinstance(export, str)]
        parts += [part for each in names for part in _object(f"{name}.{each}", package[each])]
    return page("Python API", "the docstrings", *parts)


def _object(path: str, found: griffe.Object | griffe.Alias) -> Iterator[str]:
    yield f"### {path}"
    yield from _signed(found)
    if isinstance(found, griffe.Alias):
        found = found.final_target
    # Of classes that people make themselves the docstring shows how.
    if (made := found.members.get("__init__")) and made.docstring and "Example:" in made.docstring.value:
        yield f"```python\n{signature(made).replace('__init__', found.name, 1).removesuffix(' -> None')}\n```"
        yield from _docstring(made)
    for name, member in found.members.items():
        if (
            not name.startswith("_")
            and member.is_public
            and member.docstring
            and (member.is_function or "property" in member.labels)
        ):
            yield f"#### {path.split('.')[-1]}.{name}"
            yield from _signed(member)


def _signed(found: griffe.Object | griffe.Alias) -> Iterator[str]:
    if found.is_function:
        yield f"```python\n{signature(found)}\n```"
    yield from _docstring(found)


def signature(found: griffe.Object | griffe.Alias) -> str:
    """Returns the signature of a function as it stands in the source, without ``self``."""
    function = found.final_target if isinstance(found, griffe.Alias) else found
    assert isinstance(function, griffe.Function)
    words, kind = [], None
    for each in function.parameters:
        if each.name in ("self", "cls"):
            continue
        star = {griffe.ParameterKind.var_positional: "*", griffe.ParameterKind.var_keyword: "**"}.get(each.kind, "")
        if each.kind is griffe.ParameterKind.keyword_only and kind not in (
            each.kind,
            griffe.ParameterKind.var_positional,
        ):
            words.append("*")
        kind = each.kind
        annotated = f"{star}{each.name}" + (f": {each.annotation}" if each.annotation else "")
        words.append(annotated + (f" = {each.default}" if each.default and not star else ""))
    returns = f" -> {function.returns}" if function.returns else ""
    line = f"{function.name}({', '.join(words)}){returns}"
    lines = ",\n    ".join(words)
    return line if len(line) <= 100 else f"{function.name}(\n    {lines},\n){returns}"


def _docstring(found: griffe.Object | griffe.Alias) -> Iterator[str]:
    """Yields the sections of a docstring."""
    if not found.docstring:
        return
    for section in found.docstring.parse("google"):
        match section.kind:
            case griffe.DocstringSectionKind.text:
                yield _text(section.value)
            case griffe.DocstringSectionKind.parameters | griffe.DocstringSectionKind.attributes:
                what = "argument" if section.kind is griffe.DocstringSectionKind.parameters else "attribute"
                rows = (
                    (code(each.name), code(str(each.annotation or "")), _text(each.description))
                    for each in section.value
                )
                yield table((what, "type", "meaning"), rows)
            case griffe.DocstringSectionKind.returns | griffe.DocstringSectionKind.yields:
                word = section.kind.value.capitalize()
                yield f"{word}: {' '.join(_text(each.description) for each in section.value)}"
            case griffe.DocstringSectionKind.raises:
                errors = ((code(str(each.annotation)), _text(each.description)) for each in section.value)
                yield table(("error", "raised where"), errors)
            case griffe.DocstringSectionKind.admonition:
                yield f"{section.title}:\n\n```pycon\n{section.value.description}\n```"


def _text(text: str) -> str:
    """Returns the text of a docstring as Markdown: its literals have two backquotes, names of classes a role."""
    return re.sub(r":\w+:(?=`)", "", text.replace("``", "`")).strip()
