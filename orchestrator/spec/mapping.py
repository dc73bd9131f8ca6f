"""Reads a sweep from what Python holds: dicts, lists and numbers in place of a file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from loco_core import plugins
from loco_core.errors import SpecError
from orchestrator.spec.places import beside
from orchestrator.spec.plain_yaml import cut
from orchestrator.spec.sweep import SweepSpec


def sweep_of(content: Mapping[str, Any]) -> SweepSpec:
    """Checks a sweep; places that it names go from the working directory.

    Args:
        content: the keys of a sweep file; values may be lists, tuples, paths and numbers of numpy.

    Raises:
        SpecError: one line per problem: where it is, what is wrong, and what was expected.
    """
    try:
        text = json.dumps(content, default=_plain, allow_nan=True)
        spec = SweepSpec.model_validate_json(text, strict=True, context=beside(Path("sweep.yaml")))
    except TypeError as error:
        raise SpecError(f"the sweep holds what no sweep file can hold: {error}") from None
    except ValidationError as error:
        lines, errors = [], error.errors(include_url=False)
        holders = {each["loc"][:depth] for each in errors for depth in range(len(each["loc"]))}
        # A list that only lacks items because those are wrong is none.
        for each in (each for each in errors if each["type"] != "too_short" or each["loc"] not in holders):
            loc = (*each["loc"], *each.get("ctx", {}).get("loc", ()))
            # Without the names of union members, which are those of classes.
            where = ".".join(str(part) for part in loc if isinstance(part, int) or part == part.lower())
            wrong = "" if each["type"] == "missing" else f"{cut(json.dumps(each['input'], default=str))}: "
            lines.append(f"{where or 'the sweep'}: {wrong}{each['msg']}")
        raise SpecError("\n".join(dict.fromkeys(lines))) from None
    plugins.name(spec.all_files)
    return spec


def _plain(value: Any) -> Any:
    """Returns what JSON can hold of a path, or of a number of numpy."""
    if isinstance(value, Path):
        return str(value)
    if hasattr(value, "tolist"):
        return value.tolist()
    raise TypeError(f"{value!r} is a {type(value).__name__}; expected text, numbers, lists and dicts")
