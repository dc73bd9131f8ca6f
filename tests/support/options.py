"""Every key of a sweep file with every value that its type admits, packed into few sweeps.

The keys and their finite values are read from the models behind ``sweep.yaml``, so that a new one is tried without
anybody thinking of it. Values of open types (numbers, names, paths) are handed in; a key that has neither is an error.
"""

from __future__ import annotations

import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel

Flat = dict[str, Any]
"""Values by dotted path; ``*`` stands for the first element of a list."""


@dataclass(frozen=True)
class Pick:
    """One key at one of its values, as YAML would give it."""

    path: str
    value: Any

    def __str__(self) -> str:
        return f"{self.path}: {self.value!r}"


@dataclass
class Packed:
    """A sweep that tries several picks at once: what it says beside the base, and the picks."""

    values: Flat = field(default_factory=dict)
    picks: list[Pick] = field(default_factory=list)


def keys(model: type[BaseModel], at: str = "") -> Iterator[tuple[str, list[Any], bool]]:
    """Yields every key of a model and below, with the finite values of its type, and whether it has others."""
    for name, info in model.model_fields.items():
        path, finite, opened = f"{at}{name}", [], False
        for kind, inside in _alternatives(info.annotation, path):
            if isinstance(kind, type) and issubclass(kind, BaseModel):
                yield from keys(kind, f"{inside}.")
            elif get_origin(kind) is Literal:
                finite += [value if inside == path else [value] for value in get_args(kind)]
            elif kind is bool:
                finite += [False, True]
            elif kind is type(None):
                finite.append(None)
            else:
                opened = True
        yield path, finite, opened


def _alternatives(annotation: Any, path: str) -> Iterator[tuple[Any, str]]:
    """Yields what a value may be, and where that stands: in the key itself, or in a list or mapping below it."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        yield from _alternatives(arguments[0], path)
    elif origin in (Union, types.UnionType):
        for part in arguments:
            yield from _alternatives(part, path)
    elif origin is tuple and arguments[1:] == (...,):
        yield from _alternatives(arguments[0], f"{path}.*")
    elif isinstance(origin, type) and issubclass(origin, Mapping):
        yield from _alternatives(arguments[1], f"{path}.*")
    else:
        yield annotation, path


def picks(model: type[BaseModel], samples: Mapping[str, Sequence[Any]]) -> list[Pick]:
    """Returns every key at every value to be tried.

    Args:
        model: behind the file.
        samples: values of open types by path.

    Raises:
        LookupError: a key of an open type has no sample, or a sample has no key.
    """
    found = {path: (finite, opened) for path, finite, opened in keys(model)}
    missing = [path for path, (_, opened) in found.items() if opened and path not in samples]
    if missing or (unknown := samples.keys() - found.keys()):
        raise LookupError(f"no sample of {missing}" if missing else f"no key for {sorted(unknown)}")
    return [Pick(path, value) for path, (finite, _) in found.items() for value in (*finite, *samples.get(path, ()))]


def content(base: Flat, values: Flat) -> dict[str, Any]:
    """Returns the content of a file: the base, but for what the values say."""
    whole: dict[str, Any] = {}
    kept = {path: value for path, value in base.items() if not any(_clash(path, other) for other in values)}
    for path, value in sorted({**kept, **values}.items(), key=lambda item: len(item[0])):
        place, (*steps, last) = whole, path.split(".")
        for step, following in pairwise((*steps, last)):
            if step != "*":
                below = place.setdefault(step, [{}] if following == "*" else {})
                place = below[0] if following == "*" else below
        place[last] = deepcopy(value)
    return whole


def _clash(path: str, other: str) -> bool:
    return path == other or path.startswith(f"{other}.") or other.startswith(f"{path}.")


def _agree(asks: Flat, said: Flat, path: str, other: str) -> bool:
    """Tells whether two sweeps can be one as far as two of their keys go: one inside another needs that in both."""
    outer = min(path, other, key=len)
    return not _clash(path, other) or (outer in asks and outer in said and asks[outer] == said[outer])


def pack(
    wanted: Sequence[Pick], asked: Callable[[Pick], Flat], admits: Callable[[Flat], bool]
) -> tuple[list[Packed], list[Pick]]:
    """Returns sweeps that try the picks, and the picks that no sweep admits.

    A pick joins the first sweep that says nothing else at its key and at those that it needs.

    Args:
        wanted: what is to be tried.
        asked: returns what a sweep must say that tries a pick.
        admits: tells whether these values make a sweep.
    """
    found: list[Packed] = []
    refused = []
    for pick in wanted:
        asks = asked(pick)
        for packed in [*found, Packed()]:
            clear = all(_agree(asks, packed.values, path, other) for path in asks for other in packed.values)
            joined = {**packed.values, **asks}
            if clear and admits(joined):
                found += [] if packed.picks else [packed]
                packed.values = joined
                packed.picks.append(pick)
                break
        else:
            refused.append(pick)
    return found, refused
