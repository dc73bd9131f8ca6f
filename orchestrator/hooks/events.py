"""What hooks are called with, beside `Progress`, `Localization` and `EditSummary`."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from loco_core.localization.base import Localization
from loco_core.types import Attribute
from orchestrator.scheduler.progress import Outcome, Progress
from orchestrator.scheduler.protocol import Settled
from orchestrator.stages.edit.summary import EditSummary


@dataclass(frozen=True)
class RunStart:
    """A run that begins, or goes on.

    Attributes:
        name: name of the sweep.
        key: 16 hex digits, the same for all runs into the same results.
        sweep_id: identity of the sweep.
        results: results folder or ``s3://`` address.
        command: ``run``, or ``edit`` for commands on edits.
        models: ids of the models.
        attributes: keys of the attributes.
        prompts: prompts per attribute.
        seeds: seeds per prompt.
        died: when the driver before this one was seen last, if it died (killed, or its machine is gone); else None.
    """

    name: str
    key: str
    sweep_id: str
    results: str
    command: Literal["run", "edit"]
    models: tuple[str, ...]
    attributes: tuple[str, ...]
    prompts: int
    seeds: int
    died: datetime | None = None


@dataclass(frozen=True)
class Failure:
    """A unit that was given up after its last attempt.

    Attributes:
        unit_id: the unit.
        stage: name of its kind of work.
        model: id of its model.
        attribute: key of its attribute, if it is about one.
        error_type: class of the last exception.
        error: its message, on one line.
        attempts: how often it was tried.
    """

    unit_id: str
    stage: str
    model: str
    attribute: str | None
    error_type: str
    error: str
    attempts: int


@dataclass(frozen=True)
class RunEnd:
    """How a run ended.

    Attributes:
        outcome: that of the run; ``error`` where it ended with one.
        error: the error, on one line; else None.
        seconds: wall clock.
        progress: how far it was.
        failed_cells: cells without a score, of this run or an earlier one.
        localizations: what was localized, by model and attribute.
        edits: what edits did on the ``report`` split.
    """

    outcome: Outcome | Literal["error"]
    error: str | None
    seconds: float
    progress: Progress
    failed_cells: int = 0
    localizations: tuple[Localization, ...] = ()
    edits: tuple[EditSummary, ...] = ()


def failure_of(item: Settled) -> Failure:
    """Returns what hooks are called with of a unit that was given up.

    Args:
        item: the unit and the report of its last attempt.
    """
    attribute, report = getattr(item.unit.payload, "attribute", None), item.report
    key = attribute.key if isinstance(attribute, Attribute) else attribute
    return Failure(
        item.unit.unit_id, item.unit.stage, item.unit.model, key if isinstance(key, str) else None,
        report.error_type or "Unknown", report.error or "no message", report.attempt,
    )  # fmt: skip


def numbers(progress: Progress) -> dict[str, float]:
    """Returns what trackers draw curves of.

    Args:
        progress: how far a run is.
    """
    found = {
        "units_done": progress.before + progress.done,
        "units_failed": progress.failed,
        "units_left": progress.left,
        "images": progress.rows,
        "images_per_second": progress.rate,
        "workers": progress.workers,
        "failed_attempts": progress.retries,
        "lost_workers": progress.losses,
    }
    if progress.eta_seconds is not None:
        found["seconds_left"] = progress.eta_seconds
    return found


def step_of(progress: Progress) -> int:
    """Returns the place on the axis of curves: units that are settled, which goes on where an earlier run ended.

    Args:
        progress: how far a run is.
    """
    return progress.before + progress.done + progress.failed


def words_of(found: Localization | EditSummary) -> str:
    """Returns what was localized, or what an edit did, in a line."""
    if isinstance(found, Localization):
        return f"{found.model} {found.attribute}: {found.outcome}: {found.reason}"
    flipped = f"{100 * found.flipped.value:.0f} % flipped" if found.flipped.of else "nothing to flip"
    beside = f"{_how(found)}{', '.join(found.others)}" if found.others else ""
    places = ", ".join(map(str, found.sites)) or "-"
    return f"{found.model} {found.attribute}{beside}: {found.name}: {flipped}, sites {places}"


def place_of(found: Localization | EditSummary) -> str:
    """Returns a name for what was found, for trackers: ``MODEL/ATTRIBUTE``, of edits with the editor."""
    where = f"{found.model}/{found.attribute}"
    if isinstance(found, Localization):
        return where
    return f"{where}/{found.name}" + (f"{_how(found)}{', '.join(found.others)}" if found.others else "")


def _how(found: EditSummary) -> str:
    return " together with " if found.step is None else " in a sequence with "
