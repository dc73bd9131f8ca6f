"""A checkpoint in one file, with the pipeline that lends it what it lacks. Without torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from loco_core.diffusion.facts import DEFAULT, families, family_of_pipeline, single_file
from loco_core.diffusion.folders import INDEX
from loco_core.diffusion.single_files import SingleFile
from loco_core.diffusion.weights import absolute, read_json
from loco_core.errors import ModelError
from loco_core.types import Extras

SCHEDULER = "scheduler/scheduler_config.json"


@dataclass(frozen=True)
class Lent:
    """What a single file is loaded with.

    Attributes:
        family: key of its family.
        revision: revision on the hub of the pipeline that lends; None for a folder.
        extras: what it is loaded with, the pipeline that lends and the file's own parts among them.
    """

    family: str
    revision: str | None
    extras: Extras


def lent(path: str, revision: str | None, extras: Extras) -> Lent:
    """Looks up what a checkpoint in one file is, and the pipeline that lends it what it lacks.

    Args:
        path: the file.
        revision: revision on the hub of that pipeline; None takes that of the published model, or the newest.
        extras: what it is loaded with; where it names no pipeline, the published model of its kind lends.

    Raises:
        ModelError: the file is none of a known family; no pipeline is named and none is known or can be had; or it is
            of another kind.
    """
    single = single_file(path)
    where, known = extras.config or _published(single)[0], _published(single)[1]
    if not where:
        raise ModelError(f"{path} is a {single.layout.name} checkpoint in one file; {_wanted(single)}")
    if not extras.config:
        revision = revision or known
    try:
        kind = class_of(where, revision)
    except ModelError as error:
        if extras.config:
            raise
        raise ModelError(
            f"{path} is a {single.layout.name} checkpoint in one file: {error}; {_wanted(single)}"
        ) from error
    if kind not in families()[single.family].pipelines:
        raise ModelError(f"{path} is a {single.layout.name} checkpoint, and {where} is a {kind}; {_wanted(single)}")
    if single.velocity:
        said = read_json(where, revision, SCHEDULER).get("prediction_type", "epsilon")
        if said != "v_prediction":
            raise ModelError(
                f"{path} says that it predicts velocity (v_pred), and the scheduler of {where} is set for {said}; "
                f"expected prediction_type: v_prediction in {SCHEDULER} of the folder that config: names"
            )
    return Lent(single.family, revision, replace(extras, config=absolute(where), parts=single.parts))


def lender(path: str, config: str) -> str:
    """Returns the folder or hub id that lends a single file what it lacks, without asking the hub; empty for none."""
    return config or _published(single_file(path))[0]


def _published(single: SingleFile) -> tuple[str, str | None]:
    """Returns the published model of a file's kind, and its revision."""
    known = families()[single.family].models.get(single.layout.model)
    return (str(known.path or known.hub_id), known.revision) if known else ("", None)


def _wanted(single: SingleFile) -> str:
    lacking = sorted(single.layout.parts.keys() - single.parts)
    lends = ", ".join(["its configurations", "tokenizers", "scheduler", *lacking])
    return f"expected config: a folder or hub id of a {single.layout.name} pipeline, which lends {lends}"


def class_of(path: str, revision: str | None) -> str:
    """Returns the name of a pipeline's class.

    Args:
        path: its folder or hub id.
        revision: on the hub.

    Raises:
        ModelError: its index names none.
    """
    return named_class(read_json(path, revision, INDEX), path)


def named_class(index: Mapping[str, Any], path: str) -> str:
    """Returns the name of the class that the index of a pipeline in a folder or on the hub names.

    Raises:
        ModelError: it names none.
    """
    name = index.get("_class_name", "unnamed class")
    if not isinstance(name, str):
        raise ModelError(f"{path}/{INDEX}: _class_name is {name}; expected a class of diffusers")
    return name


def family_of_index(index: Mapping[str, Any], path: str) -> str:
    """Returns the key of the family that serves a pipeline.

    Args:
        index: its ``model_index.json``, or its configuration in memory.
        path: its folder or hub id, for messages.

    Raises:
        UnknownPipelineError: no family knows its class.
        ModelError: the index names none, or the family serves others of the class alone.
    """
    class_name = named_class(index, path)
    family = family_of_pipeline(class_name, path)
    refuses = families()[family].refuses if family != DEFAULT else None
    if refuses is not None and (why := refuses(index)):
        raise ModelError(f'{path} is a "{class_name}" that no family supports: {why}')
    return family
