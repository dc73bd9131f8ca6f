"""The kinds of work: those of this project, and those that are installed beside it.

A kind of work of one's own is one package outside of this project, named by an entry point in the group
``loco_sweep.stages``. It holds ``TABLES`` (in ``__init__.py``: the Parquet schema of every table that it writes, each
with a column ``unit_id``), ``plan.py`` with a function ``units`` (see `units_of`), ``work.py`` with a function ``work``
(see `orchestrator.stages.context.Work`), and, where something follows from its units, ``stage.py`` with a class
``Stage`` that is built from a `orchestrator.stages.base.StageContext`. A sweep asks for it
with ``stages: {NAME: {its settings}}``.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from importlib.util import find_spec

from loco_core import plugins
from loco_core.errors import SpecError
from orchestrator.scheduler.protocol import Unit
from orchestrator.stages.base import PlanContext, PlannedStage, Stage, StageContext
from orchestrator.stages.context import Work

OWN = ("sweep", "trace", "edit", "attack", "probe")
_TABLES = {"trace": ("traces",), "edit": ("fits", "evaluations"), "attack": ("attacks",), "probe": ("probes",)}


def work_of(stage: str) -> Work:
    """Returns what a worker does with the units of a stage.

    Raises:
        SpecError: there is no such stage.
    """
    work: Work = importlib.import_module(f"{_package(stage)}.work").work
    return work


def outside(context: StageContext, name: str) -> Stage:
    """Returns the stage of a kind of work that is installed beside this project.

    Args:
        context: what it is built from.
        name: its name in the sweep's ``stages`` block.

    Raises:
        SpecError: there is no such stage, or it calls itself otherwise.
    """
    package = _package(name)
    if find_spec(f"{package}.stage") is not None:
        made: Callable[[StageContext], Stage] = importlib.import_module(f"{package}.stage").Stage
        stage = made(context)
        _check_name(name, stage.name, f"{package}.stage")
        return stage
    return PlannedStage(name, units_of(context, name), context)


def units_of(context: PlanContext, name: str) -> Sequence[Unit]:
    """Returns all units that an outside stage plans, committed or not: the same ones for the same sweep.

    Its ``units`` is pure: called with a `PlanContext`, it raises a SpecError where the settings are none of its own.

    Args:
        context: what units are planned from.
        name: the stage's name.
    """
    package = _package(name)
    units: Callable[[PlanContext], Sequence[Unit]] = importlib.import_module(f"{package}.plan").units
    found = units(context)
    for unit in found:
        _check_name(name, unit.stage, f"{package}.plan")
    return found


def tables_by_stage() -> dict[str, tuple[str, ...]]:
    """Returns the tables that units of each stage have rows in; without ``sweep``, whose units stand in plan files."""
    outside = {key: tuple(importlib.import_module(name).TABLES) for key, name in plugins.outside("stages").items()}
    return {**_TABLES, **outside}


def _check_name(key: str, name: str, where: str) -> None:
    if name != key:
        raise SpecError(f'{where} speaks of the stage "{name}"; expected the name of its entry point, "{key}"')


def _package(stage: str) -> str:
    if stage in OWN:
        return f"orchestrator.stages.{stage}"
    return plugins.outside_module("stages", stage)
