"""The tables of a results root; their columns are in `columns` and `edit_columns`.

Columns are only ever added, nullable; a reader takes the schema from the first file it meets, so every file of a table
carries the whole of it. Cosines, effects and seconds are float64.
"""

from __future__ import annotations

import importlib
import json
import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from types import MappingProxyType
from typing import Any

import pyarrow as pa

from loco_core import plugins
from loco_core.errors import StoreError
from orchestrator.store import check_columns, columns, edit_columns
from orchestrator.store.columns import INT, LONG, TEXT, Column, Columns

SCHEMA_VERSION = 1
UNIT, MEANING = "unit", "description"
"""Keys of a field's metadata."""
_TABLE_NAME = re.compile("[a-z][a-z_]{0,40}")

_HF_NAMES = {TEXT: "string", INT: "int32", LONG: "int64"}
_HF_FEATURES = {
    **{column.name: {"dtype": _HF_NAMES[column.type], "_type": "Value"} for column in columns.IMAGE_FIELDS},
    "image": {"_type": "Image"},
}


@dataclass(frozen=True)
class _Table:
    """A table of this project.

    Attributes:
        about: what a row is.
        columns: its columns, in their order.
        metadata: what else its files say of themselves.
    """

    about: str
    columns: Columns
    metadata: Mapping[str, str] = field(default_factory=dict)

    def schema(self, *, described: bool = False) -> pa.Schema:
        """Returns the Arrow schema; where wanted, every field says its unit and its meaning."""
        fields = [
            pa.field(column.name, column.type, metadata=_documents(column) if described else None)
            for column in self.columns
        ]
        said = {"loco_sweep_schema_version": str(SCHEMA_VERSION), **self.metadata}
        return pa.schema(fields, metadata={key.encode(): value.encode() for key, value in said.items()})


def _documents(column: Column) -> dict[str, str]:
    return {key: said for key, said in ((UNIT, column.unit), (MEANING, column.meaning)) if said}


_EDITS = "One row per edit and set of sites that it was fitted for"
_HELD: Mapping[str, _Table] = MappingProxyType(
    {
        "scores": _Table("One row per scored picture of a prompt, seed and intervention", columns.SCORES),
        "failures": _Table("One row per picture that could not be made or scored, with its error", columns.FAILURES),
        "embeddings": _Table("One row per scored picture: the scorer's embedding", columns.EMBEDDINGS),
        "images": _Table(
            "One row per picture kept; Hugging Face datasets shows the column as images",
            columns.IMAGES,
            {"huggingface": json.dumps({"info": {"features": _HF_FEATURES}})},
        ),
        "effects": _Table("One row per model, attribute, localizer and window", columns.EFFECTS),
        "localizations": _Table("One row per model, attribute and localizer: what was found", columns.LOCALIZATIONS),
        "fits": _Table(f"{_EDITS}, as fitted; `edits` says which were chosen", edit_columns.EDITS),
        "edits": _Table(_EDITS, edit_columns.EDITS),
        "evaluations": _Table(
            "One row per picture drawn with and without an edit, and kind that the judge names",
            edit_columns.EVALUATIONS,
        ),
        "picture_metrics": _Table(
            "One row per metric and picture drawn with and without an edit, on the report split",
            edit_columns.PICTURE_METRICS,
        ),
        "features": _Table(
            "One row per metric of sets and picture of an unrelated prompt: what the metric sees of it",
            edit_columns.FEATURES,
        ),
        "metrics": _Table(
            "One row per edit, metric and role of prompts: what the metric says of the edit", edit_columns.METRICS
        ),
        "attacks": _Table(
            "One row per attack and picture drawn with the attacked model, edited or not", edit_columns.ATTACKS
        ),
        "trials": _Table("One row per trial of `tune`", edit_columns.TRIALS),
        "traces": _Table(
            "One row per prompt, seed and layer observed or restored, and per clean or corrupted picture",
            columns.TRACES,
        ),
        "probes": _Table("One row per batch size that was measured for `batch_size: auto`", columns.PROBES),
        "checks": _Table("One row per model that `loco-sweep check` looked at", check_columns.CHECKS),
        "usage": _Table("One row per worker and interval of about a minute: what its time went into", columns.USAGE),
    }
)


_OWN: Mapping[str, pa.Schema] = MappingProxyType({name: table.schema() for name, table in _HELD.items()})


class _Tables(Mapping[str, pa.Schema]):
    """The tables of this project, and those of kinds of work that other packages add."""

    def __getitem__(self, name: str) -> pa.Schema:
        return _OWN[name] if name in _OWN else outside_tables()[name]

    def __iter__(self) -> Iterator[str]:
        return iter((*_OWN, *outside_tables()))

    def __len__(self) -> int:
        return len(_OWN) + len(outside_tables())


TABLES: Mapping[str, pa.Schema] = _Tables()
"""Schema of every table that people read, by the name of its folder."""


def about(name: str) -> str:
    """Returns what a row of a table is; of another package's table what its metadata say."""
    return _table(name).about


def columns_of(name: str) -> Columns:
    """Returns the columns of a table; of other packages' tables with what the metadata of their fields say."""
    return _table(name).columns


@cache
def described(name: str) -> pa.Schema:
    """Returns the schema of a table's published files: every field says its unit and its meaning."""
    return _table(name).schema(described=True)


def is_table_name(name: str) -> bool:
    """Tells whether a table of a kind of work that is installed beside this project may have this name."""
    return _TABLE_NAME.fullmatch(name) is not None


def _table(name: str) -> _Table:
    return _HELD[name] if name in _HELD else _outside(tuple(sys.path))[name]


@cache
def _outside(path: tuple[str, ...]) -> dict[str, _Table]:
    found: dict[str, _Table] = {}
    for key, package in plugins.outside("stages").items():
        for name, schema in importlib.import_module(package).TABLES.items():
            if name in _OWN or name in found or not is_table_name(name) or "unit_id" not in schema.names:
                raise StoreError(
                    f'the stage "{key}" ({package}) has a table {name!r}; expected a name of small letters that no '
                    "other table has, and a column unit_id"
                )
            found[name] = _Table(_said(schema.metadata).get(MEANING, ""), tuple(_column(each) for each in schema))
    return found


def _column(each: pa.Field[Any]) -> Column:
    said = _said(each.metadata)
    return Column(each.name, each.type, said.get(UNIT, ""), said.get(MEANING, ""))


def _said(metadata: Mapping[bytes, bytes] | None) -> dict[str, str]:
    return {key.decode(): value.decode() for key, value in (metadata or {}).items()}


def outside_tables() -> Mapping[str, pa.Schema]:
    """Returns the tables of kinds of work that other packages add; they grow by parts.

    Raises:
        StoreError: one has a name that a table of this project has, or no column ``unit_id``.
    """
    return {name: table.schema() for name, table in _outside(tuple(sys.path)).items()}
