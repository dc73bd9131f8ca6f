"""Weights & Biases: a run per results folder, which goes on where a sweep is resumed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from loco_core.localization.base import Localization
from orchestrator.hooks.events import RunEnd, RunStart, numbers, place_of, step_of
from orchestrator.scheduler.progress import Progress
from orchestrator.stages.edit.summary import EditSummary

if TYPE_CHECKING:
    import wandb

NEEDS = "wandb"


class Hook:
    """Logs to a run. Credentials come from the environment or ``~/.netrc``, as wandb itself reads them."""

    def __init__(
        self,
        project: str = "loco-sweep",
        entity: str | None = None,
        mode: str | None = None,
        folder: str | None = None,
        tags: list[str] | None = None,
    ) -> None:
        """Takes where the run belongs.

        Args:
            project: project of the run.
            entity: user or team that it belongs to; default: that of the credentials.
            mode: ``online``, ``offline`` or ``disabled``; default: ``WANDB_MODE``.
            folder: folder of its local files; default: ``wandb`` in the working directory of the driver.
            tags: tags of the run.
        """
        self._options: dict[str, Any] = {
            "project": project, "entity": entity, "mode": mode, "dir": folder, "tags": tags,
        }  # fmt: skip
        self._step = 0

    def on_start(self, run: RunStart) -> None:
        """Opens the run."""
        import wandb

        # Nothing of the machine, its environment and its command line: these may hold what nobody should read.
        settings = wandb.Settings(
            console="off", disable_git=True, save_code=False, x_disable_meta=True, x_disable_stats=True, silent=True
        )
        config = {
            "sweep_id": run.sweep_id, "results": run.results, "models": list(run.models),
            "attributes": list(run.attributes), "prompts": run.prompts, "seeds": run.seeds,
        }  # fmt: skip
        self._run: wandb.Run = wandb.init(
            **self._options, id=run.key, resume="allow", name=run.name, config=config, settings=settings
        )

    def on_progress(self, progress: Progress) -> None:
        """Logs a point of every curve."""
        self._step = step_of(progress)
        self._run.log({**numbers(progress), "units": self._step})

    def on_localized(self, found: Localization) -> None:
        """Logs what was localized, as the summary of the run."""
        where = place_of(found)
        self._run.summary.update(
            {f"{where}/outcome": found.outcome, f"{where}/effect": found.effect, f"{where}/sites": _sites(found)}
        )

    def on_edited(self, found: EditSummary) -> None:
        """Logs what an edit did, as the summary of the run."""
        where = place_of(found)
        self._run.summary.update(
            {f"{where}/flipped": found.flipped.value, f"{where}/neighbours_kept": found.neighbours_kept.value}
        )

    def on_end(self, end: RunEnd) -> None:
        """Ends the run; it counts as failed unless all is done."""
        self._run.summary.update({"outcome": end.outcome, "failed_cells": end.failed_cells, "error": end.error})
        self._run.finish(exit_code=0 if end.outcome == "done" else 1)


def _sites(found: Localization) -> str | None:
    if found.window_start is None or found.window_size is None:
        return None
    return f"{found.window_start}-{found.window_start + found.window_size - 1}"
