"""TensorBoard: curves of the progress, and what was localized as texts."""

from __future__ import annotations

import uuid
from pathlib import Path

from loco_core.localization.base import Localization
from orchestrator.hooks.events import RunEnd, RunStart, numbers, place_of, step_of, words_of
from orchestrator.identity import safe_name
from orchestrator.scheduler.progress import Progress
from orchestrator.stages.edit.summary import EditSummary

NEEDS = "tensorboardX"


class Hook:
    """Writes event files."""

    def __init__(self, folder: str | None = None) -> None:
        """Takes where they go.

        Args:
            folder: folder of the event files, or an ``s3://`` address; default: ``tensorboard/NAME`` in the working
                directory of the driver.
        """
        self._folder, self._step = folder, 0

    def on_start(self, run: RunStart) -> None:
        """Opens a file; a run that goes on gets one of its own in the same folder."""
        from tensorboardX import SummaryWriter

        folder = self._folder or str(Path("tensorboard") / safe_name(run.name))
        # Two runs that begin in the same second are two files.
        self._writer = SummaryWriter(folder, filename_suffix=f".{uuid.uuid4().hex[:8]}")
        self._writer.add_text("sweep", f"{run.name}: {run.results}", 0)

    def on_progress(self, progress: Progress) -> None:
        """Writes a point of every curve."""
        self._step = step_of(progress)
        for name, value in numbers(progress).items():
            self._writer.add_scalar(f"sweep/{name}", value, self._step)
        self._writer.flush()

    def on_localized(self, found: Localization) -> None:
        """Writes what was localized."""
        self._found(found, found.effect, "effect")

    def on_edited(self, found: EditSummary) -> None:
        """Writes what an edit did."""
        self._found(found, found.flipped.value if found.flipped.of else None, "flipped")

    def _found(self, found: Localization | EditSummary, value: float | None, name: str) -> None:
        self._writer.add_text(place_of(found), words_of(found), self._step)
        if value is not None:
            self._writer.add_scalar(f"{name}/{place_of(found)}", value, self._step)

    def on_end(self, end: RunEnd) -> None:
        """Closes the file."""
        self._writer.add_text("outcome", end.error or end.outcome, self._step)
        self._writer.close()
