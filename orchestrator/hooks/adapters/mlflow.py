"""MLflow: a run per results folder, which goes on where a sweep is resumed."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from loco_core.localization.base import Localization
from orchestrator.hooks.events import Failure, RunEnd, RunStart, numbers, place_of, step_of, words_of
from orchestrator.identity import safe_name
from orchestrator.scheduler.progress import Progress
from orchestrator.stages.edit.summary import EditSummary

if TYPE_CHECKING:
    from mlflow import MlflowClient

NEEDS = "mlflow"
TAG = "loco_sweep"
"""Tag by which a run is found again."""


class Hook:
    """Logs to a run. Server and credentials come from the environment, as MLflow itself reads them."""

    def __init__(self, experiment: str = "loco-sweep", tracking_uri: str | None = None) -> None:
        """Takes where the run belongs.

        Args:
            experiment: name of the experiment; made where there is none.
            tracking_uri: address of the server, or of a folder; default: ``MLFLOW_TRACKING_URI``.
        """
        self._experiment, self._uri, self._step = experiment, tracking_uri, 0

    def on_start(self, run: RunStart) -> None:
        """Opens the run, or goes on with that of these results."""
        from mlflow import MlflowClient

        self._client: MlflowClient = MlflowClient(self._uri)
        found = self._client.get_experiment_by_name(self._experiment)
        experiment = found.experiment_id if found else self._client.create_experiment(self._experiment)
        known = self._client.search_runs([experiment], f"tags.{TAG} = '{run.key}'", max_results=1)
        if known:
            self._id = known[0].info.run_id
            self._client.update_run(self._id, "RUNNING")
            return
        made = self._client.create_run(experiment, tags={TAG: run.key}, run_name=run.name)
        self._id = made.info.run_id
        about = {
            "sweep_id": run.sweep_id, "results": run.results, "models": ", ".join(run.models),
            "attributes": ", ".join(run.attributes), "prompts": str(run.prompts), "seeds": str(run.seeds),
        }  # fmt: skip
        for name, value in about.items():
            # Parameters have a limit of length, and cannot change.
            self._client.set_tag(self._id, name, value[:4000])

    def on_progress(self, progress: Progress) -> None:
        """Logs a point of every curve."""
        self._step = step_of(progress)
        self._metrics(numbers(progress))

    def on_localized(self, found: Localization) -> None:
        """Logs what was localized."""
        self._client.set_tag(self._id, _key(f"outcome.{place_of(found)}"), words_of(found)[:4000])
        if found.effect is not None:
            self._metrics({_key(f"effect.{place_of(found)}"): found.effect})

    def on_edited(self, found: EditSummary) -> None:
        """Logs what an edit did."""
        values = {"flipped": found.flipped, "neighbours_kept": found.neighbours_kept}
        self._metrics({_key(f"{name}.{place_of(found)}"): share.value for name, share in values.items() if share.of})

    def on_failed(self, failure: Failure) -> None:
        """Logs which unit failed last."""
        self._client.set_tag(self._id, "failure", f"{failure.model}: {failure.error_type}: {failure.error}"[:4000])

    def on_end(self, end: RunEnd) -> None:
        """Ends the run."""
        self._client.set_tag(self._id, "outcome", end.error or end.outcome)
        status = {"done": "FINISHED", "stopped": "KILLED", "over_budget": "KILLED", "lease_lost": "KILLED"}.get(
            end.outcome, "FAILED"
        )
        self._client.set_terminated(self._id, status)

    def _metrics(self, values: dict[str, float]) -> None:
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        self._client.log_batch(self._id, [Metric(name, value, now, self._step) for name, value in values.items()])


def _key(text: str) -> str:
    """Returns a name that MLflow takes: letters, digits and a few signs, at most 250."""
    return "/".join(safe_name(part) for part in text.split("/"))[:250]
