"""The small documents under ``_meta``, and what is in them: each is checked when it is read.

A document carries the sum of its bytes, so that what was changed is found before it comes here. What comes here is
whole, and may still be another version's, or somebody's own.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from orchestrator.spec import SweepSpec
from orchestrator.store import layout
from orchestrator.store.checksums import decode_document
from orchestrator.store.errors import REMEDY, DamagedFileError, NewerVersionError, not_installed
from orchestrator.store.schemas import is_table_name

D = TypeVar("D", bound="Document")


def _unit_id(text: str) -> str:
    if not layout.is_unit_id(text):
        raise ValueError("a unit id of letters, digits, - and _ was expected")
    return text


class Document(BaseModel):
    """A document; keys that it does not know make it a newer version's."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class SweepDocument(Document):
    """What these results are of: ``_meta/sweep.json``."""

    sweep_id: str
    spec: SweepSpec


class Pinned(Document):
    """What names stood for when the results were begun: ``_meta/resolved.json``.

    Attributes:
        models: hash of the weights of each model.
        sites: addresses of its sites, in execution order.
        engines: what was set of how it computes; results of an earlier version do not say it.
        scorer: hash of the weights of the scorer.
        judge: the judge of the last run, by its name in ``evaluations``; None without one.
        judges: what each judge of edits was, by its name in ``evaluations``: model, revision, hash of its weights,
            settings; results of an earlier version do not say it.
        metrics: what each metric of edits was, likewise; results of an earlier version do not say it.
        code: hashes of the user's own Python files, by path; results of an earlier version do not say it.
        plans: how many plan files were written; results of an earlier version do not say it.
    """

    models: dict[str, str]
    sites: dict[str, tuple[str, ...]]
    engines: dict[str, dict[str, Any]] = Field(default_factory=dict)
    scorer: str
    judge: str | None = None
    judges: dict[str, dict[str, Any]] = Field(default_factory=dict)
    metrics: dict[str, dict[str, Any]] = Field(default_factory=dict)
    code: dict[str, str] = Field(default_factory=dict)
    plans: Annotated[int, Field(ge=0)] = 0


class Manifest(Document):
    """Which units make up a part.

    Attributes:
        units: their ids, in the order of the part.
        number: of the part; an earlier version did not write it.
    """

    units: tuple[Annotated[str, AfterValidator(_unit_id)], ...]
    number: int | None = None


class Record(Document):
    """That a part is complete: the sums of its files by path."""

    files: dict[str, str]


class TableFiles(Document):
    """Which files of derived tables were written: ``_meta/tables.json``."""

    files: tuple[str, ...]


class InFlight(Document):
    """Which units were being worked on, with the attempt each was at."""

    attempts: dict[str, int]


class Control(Document):
    """What people ask of whoever drives these results: ``_meta/control.json``.

    Attributes:
        workers: how many workers there may be; None is as many as the run was started with.
        paused: whether there are to be none.
    """

    workers: Annotated[int, Field(ge=1)] | None = None
    paused: bool = False


def read_document(data: bytes, path: str, kind: type[D]) -> D:
    """Returns what is in a document.

    Args:
        data: its bytes.
        path: where they come from, for the message.
        kind: what it must be.

    Raises:
        DamagedFileError: its bytes are not those that were written, or it is another document.
        NewerVersionError: it has keys that this version does not know.
    """
    content = decode_document(data, path)
    try:
        return kind.model_validate(content, strict=False)
    except ValidationError as error:
        problems = error.errors()
    where = [".".join(str(part) for part in item["loc"]) for item in problems]
    unknown = [place for item, place in zip(problems, where, strict=True) if item["type"] == "extra_forbidden"]
    if unknown:
        raise NewerVersionError(
            f"{path}: has a key that this version does not know ({unknown[0][:80]!r}): it was made by a newer version "
            "of loco-sweep; use that version, here too"
        )
    message = problems[0]["msg"].partition("\n")[0]
    raise DamagedFileError(f"{path}: is not as loco-sweep writes it ({where[0][:80]}: {message[:120]}); {REMEDY}")


def is_own_manifest(manifest: Manifest, number: int, seen: Collection[str]) -> bool:
    """Tells whether a manifest decides on the part of its number, or is a copy of another's.

    Args:
        manifest: what was read.
        number: by its name.
        seen: units of manifests before it.
    """
    return manifest.number in (None, number) and not any(unit in seen for unit in manifest.units)


def check_record(record: Record, number: int, place: str) -> dict[str, str]:
    """Returns the sums of the files of a part.

    Args:
        record: what was read.
        number: by its name.
        place: where it is, for the message.

    Raises:
        DamagedFileError: it names files of another part, or what is no part at all.
        NewerVersionError: it names a table of a kind of work that is not installed here.
    """
    for path in record.files:
        table = path.partition("/")[0]
        if is_table_name(table) and table not in (*layout.parted(), "_meta") and path == layout.part(table, number):
            raise not_installed(place, table)
    wrong = sorted(record.files.keys() - {layout.part(name, number) for name in layout.parted()})
    if wrong:
        raise DamagedFileError(f"{place}: names {wrong[0][:80]!r}, which is no file of part {number}; {REMEDY}")
    return record.files
