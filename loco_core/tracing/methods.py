"""Localizers as the bench takes them: by key or file, with the traces that they read."""

from __future__ import annotations

from collections.abc import Sequence

from loco_core import plugins
from loco_core.localization.base import name_of, rule
from loco_core.localization.bench.methods import Method
from loco_core.tracing.base import reads, tracer_id

ALL = "all"


def method(localizer: str) -> Method:
    """Returns a localizer by its key or file.

    Raises:
        SpecError: there is none, or it reads what nothing writes.
    """
    tracer = reads(localizer)
    return Method(name_of(localizer), rule(localizer), None if tracer is None else tracer_id(tracer))


def methods(localizers: Sequence[str]) -> tuple[Method, ...]:
    """Returns localizers by keys or files; `ALL` stands for those that are installed, those that read scores first.

    Raises:
        SpecError: one is none, or reads what nothing writes.
    """
    found: list[Method] = []
    for name in localizers:
        some = [method(key) for key in plugins.keys("localizers")] if name == ALL else [method(name)]
        found += sorted(some, key=lambda one: one.tracer is not None)
    return tuple(found)
