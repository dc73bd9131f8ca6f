"""How far a run is, as Prometheus metrics of the cluster it runs on; ``cluster/grafana.json`` draws them."""

from __future__ import annotations

from ray.util.metrics import Gauge

from orchestrator.scheduler.progress import Progress

PREFIX = "loco_sweep"
HELP = {
    "units": "Units of the run, by state",
    "workers": "Workers, by state",
    "images": "Pictures made under this driver, invalid ones included",
    "images_per_second": "Pace over the last minute",
    "seconds_left": "Until what is known is done, at this pace",
    "failed_attempts": "Attempts at units that failed under this driver",
    "lost_workers": "Workers lost with their machine under this driver",
}


class Metrics:
    """Publishes progress through Ray's exporter, which puts ``ray_`` before every name.

    All are gauges: they tell of one driver, and begin anew with the next.

    Args:
        results: results of the run, the value of the tag ``results``.
    """

    def __init__(self, results: str) -> None:
        self._results = results
        self._gauges: dict[str, Gauge] = {}

    def show(self, progress: Progress) -> None:
        """Publishes; Ray must be running."""
        waiting = progress.left - progress.running
        states = {"done": progress.done, "failed": progress.failed, "waiting": waiting, "running": progress.running}
        for state, count in states.items():
            self._set("units", count, state)
        for state, count in (("working", progress.workers), ("starting", progress.pending)):
            self._set("workers", count, state)
        self._set("images", progress.rows)
        self._set("images_per_second", progress.rate)
        self._set("failed_attempts", progress.retries)
        self._set("lost_workers", progress.losses)
        if progress.eta_seconds is not None:
            self._set("seconds_left", progress.eta_seconds)

    def _set(self, name: str, value: float, state: str | None = None) -> None:
        tags = {"results": self._results} | ({} if state is None else {"state": state})
        gauge = self._gauges.get(name)
        if gauge is None:
            gauge = self._gauges[name] = Gauge(f"{PREFIX}_{name}", HELP[name], tuple(tags))
        gauge.set(value, tags)
