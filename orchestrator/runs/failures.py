"""Why cells failed, one line per reason, from the table ``failures``, whatever backend they failed on."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from orchestrator.stages.sweep.rows import CELL_KEY
from orchestrator.stages.sweep.stored import failed_cells

REASON_COLUMNS = [*CELL_KEY, "error_type", "error"]
"""What is read of ``failures``."""
SHOWN = 5
"""Reasons that are said in full."""
# Raised by a check or by a library that was given what it cannot take: three attempts have met it, a fourth would.
_LASTING = {
    "SpecError", "ModelError", "EditError", "LocalizationError", "ValueError", "TypeError", "KeyError", "IndexError",
    "AttributeError", "NotImplementedError", "AssertionError", "ZeroDivisionError", "ImportError",
    "ModuleNotFoundError", "UnicodeDecodeError", "RuntimeError",
}  # fmt: skip
# What else such errors are about may be well the next time: the hub, the network, a device.
_PASSING = re.compile(r"\b(hub|network|connect\w*|timed? ?out|CUDA\w*|cuda\w*|CUBLAS\w*|cuDNN|NCCL|HIP|memory)\b")
_VARYING = re.compile(r'"[^"]*"|\'[^\']*\'|\b[0-9a-f]{12,64}\b|\d+(?:\.\d+)?')


@dataclass(frozen=True)
class FailureKind:
    """Cells that failed for one reason.

    Attributes:
        error_type: class of the exception.
        error: the message of one of them; those of others differ in numbers and quoted words at most.
        cells: how many.
        models: of these cells.
        attributes: likewise.
        lasting: whether every further try would meet it, as long as nothing else is changed.
    """

    error_type: str
    error: str
    cells: int
    models: tuple[str, ...]
    attributes: tuple[str, ...]
    lasting: bool

    @property
    def words(self) -> str:
        """The reason in a line."""
        where = f"{_listed(self.attributes)} of {_listed(self.models)}"
        return f"{self.cells} cell{'' if self.cells == 1 else 's'} ({where}): {self.error_type}: {self.error}"


def folded(error_type: str, error: str) -> tuple[str, str]:
    """Returns what is the same in all errors of a kind."""
    return error_type, _VARYING.sub("~", error)


def lasts(error_type: str, error: str) -> bool:
    """Tells whether every further try would meet an error that a unit met at its last attempt.

    Args:
        error_type: class of the exception.
        error: its message.
    """
    return error_type in _LASTING and not _PASSING.search(error)


def failure_kinds(scores: pa.Table, failures: pa.Table) -> tuple[FailureKind, ...]:
    """Returns the reasons of cells that failed and that no later attempt scored, those of most cells first.

    Args:
        scores: rows with the columns `CELL_KEY`.
        failures: rows with `REASON_COLUMNS`.
    """
    return kinds_of(failed_cells(scores, failures))


def kinds_of(failed: pa.Table) -> tuple[FailureKind, ...]:
    """Returns the reasons of failed cells, those of most cells first.

    Args:
        failed: rows with `REASON_COLUMNS`, one per cell.
    """
    alike = ["error_type", "error", "model", "attribute"]
    groups: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for row in failed.group_by(alike, use_threads=False).aggregate([([], "count_all")]).to_pylist():
        groups.setdefault(folded(row["error_type"], row["error"]), []).append(row)
    found = [
        FailureKind(
            error_type=alike[0]["error_type"],
            error=alike[0]["error"],
            cells=sum(row["count_all"] for row in alike),
            models=tuple(sorted({row["model"] for row in alike})),
            attributes=tuple(sorted({row["attribute"] for row in alike})),
            lasting=all(lasts(row["error_type"], row["error"]) for row in alike),
        )
        for alike in groups.values()
    ]
    return tuple(sorted(found, key=lambda kind: (-kind.cells, kind.error_type, kind.error)))


def advice(kinds: Iterable[FailureKind], results: str) -> list[str]:
    """Returns what a person reads of failed cells: one line per reason, and what to do.

    Args:
        kinds: of `failure_kinds`.
        results: the results root, as the person named it.
    """
    listed = list(kinds)
    lines = [kind.words for kind in listed[:SHOWN]]
    if len(listed) > SHOWN:
        lines.append(f"and {len(listed) - SHOWN} more reasons, in the table failures")
    again = f"`loco-sweep retry {results}`"
    if any(not kind.lasting for kind in listed):
        lines.append(f"{again} computes failed cells again")
    if any(kind.lasting for kind in listed):
        what = "the same cells" if all(kind.lasting for kind in listed) else "those of the other reasons"
        lasting = ", ".join(dict.fromkeys(kind.error_type for kind in listed if kind.lasting))
        lines.append(f"every try meets {lasting}: change what it names first, then {again} computes {what} again")
    return lines


def _listed(names: tuple[str, ...]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more
