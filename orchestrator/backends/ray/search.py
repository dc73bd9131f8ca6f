"""Settings of an edit, proposed by Optuna and stopped by ASHA, through Ray Tune.

Trials are processes that only wait: they ask a broker for measurements, which the driver hands to the workers of the
sweep. A trial that asked for a GPU, or for CPUs, would wait for ever for what those workers hold.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import tempfile
import threading
from functools import partial
from pathlib import Path
from typing import Any

import optuna
import ray
from ray import tune
from ray.exceptions import RayError
from ray.tune.schedulers import ASHAScheduler
from ray.tune.search import ConcurrencyLimiter
from ray.tune.search.optuna import OptunaSearch
from ray.tune.stopper import Stopper
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from loco_core.errors import LocoError
from orchestrator.scheduler.host import one_line
from orchestrator.scheduler.protocol import BackendError
from orchestrator.stages.tune.stage import Request, Space

METRIC, TIME = "objective", "seeds"
REDUCTION = 2
"""Of the trials that reach a rung, one in so many goes on."""
STOP_SECONDS = 30.0
TRIAL_MEMORY = 1 << 20
"""What a trial takes of its node, in bytes: Ray Tune knows no trial that takes nothing."""


class _Broker:
    """Stands between trials and the driver."""

    def __init__(self) -> None:
        self._new: list[Request] = []
        self._answers: dict[str, asyncio.Future[float]] = {}

    async def measure(self, request: Request) -> float:
        answer: asyncio.Future[float] = asyncio.get_running_loop().create_future()
        self._answers[request.trial] = answer
        self._new.append(request)
        return await answer

    async def take(self) -> list[Request]:
        new, self._new = self._new, []
        return new

    async def answer(self, trial: str, objective: float) -> None:
        self._answers.pop(trial).set_result(objective)

    async def release(self) -> None:
        for answer in self._answers.values():
            answer.cancel()
        self._answers.clear()


class _WhenTold(Stopper):  # type: ignore[misc]
    """Stops all trials once a file is there; Ray Tune pickles it."""

    def __init__(self, file: str) -> None:
        self._file = file

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return self.stop_all()

    def stop_all(self) -> bool:
        return os.path.exists(self._file)


def rungs(seeds: int) -> list[int]:
    """Returns after how many seeds a trial reports: 1, 2, 4 and so on, and all."""
    found = [1]
    while found[-1] * REDUCTION < seeds:
        found.append(found[-1] * REDUCTION)
    return sorted({*found, seeds})


def _trial(config: dict[str, Any], space: Space, seeds: int, broker: Any) -> None:
    """One trial: asks for more and more seeds until it is stopped."""
    name = tune.get_context().get_trial_id()
    for count in rungs(seeds):
        found = ray.get(broker.measure.remote(space.request(name, config, count)))
        tune.report({METRIC: found, TIME: count})


class RayTuneSearch:
    """A search on the Ray that this process is connected to. See `orchestrator.stages.tune.stage.Search`.

    Args:
        space: space that is searched.
        trials: number of settings that are tried.
        concurrent: number of trials at once.
        seeds: number of seeds that a trial is measured on that is never stopped.
        seed: seed of the search.
    """

    def __init__(self, space: Space, *, trials: int, concurrent: int, seeds: int, seed: int) -> None:
        self._space, self._trials, self._concurrent = space, trials, concurrent
        self._seeds, self._seed = seeds, seed
        self._broker: Any = None
        self._thread = threading.Thread(target=self._search, daemon=True, name="tune")
        self._error: Exception | None = None
        self._folder = self._told = ""

    def start(self) -> None:
        """Begins to propose."""
        self._folder = tempfile.mkdtemp(prefix="loco-tune-")
        self._told = os.path.join(self._folder, "stop")
        # Beside the driver: another node may go.
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        options = {"num_cpus": 0, "max_concurrency": self._trials + 3, "scheduling_strategy": here}
        self._broker = ray.remote(_Broker).options(**options).remote()
        self._thread.start()

    def take(self) -> list[Request]:
        """Returns what trials ask for since the last call.

        Raises:
            BackendError: Ray is gone.
        """
        return list(self._call(self._broker.take))

    def answer(self, trial: str, objective: float) -> None:
        """Tells a trial how it did.

        Raises:
            BackendError: Ray is gone.
        """
        self._call(self._broker.answer, trial, objective)

    def _call(self, method: Any, *values: Any) -> Any:
        try:
            return ray.get(method.remote(*values))
        except RayError as error:
            raise BackendError(f"Ray is gone: {one_line(error)}; the same command tries again") from error

    def over(self) -> bool:
        """Tells whether no trial will ask any more.

        Raises:
            LocoError: the search broke off.
        """
        if self._thread.is_alive():
            return False
        if self._error is not None:
            raise LocoError(f"the search broke off: {one_line(self._error)}") from self._error
        return True

    def stop(self) -> None:
        """Ends the search, however far it is; Ray must not be shut down under its thread, which would start another."""
        if not self._folder:
            return
        Path(self._told).touch()
        if self._thread.is_alive():
            self._broker.release.remote()
            self._thread.join(STOP_SECONDS)
        shutil.rmtree(self._folder, ignore_errors=True)

    def _search(self) -> None:
        # Nothing but the table of trials is kept of a search.
        os.environ["TUNE_DISABLE_AUTO_CALLBACK_LOGGERS"] = "1"
        # Its newer reporter prints a banner at every verbosity, and names a folder that is gone when one reads it.
        os.environ["RAY_AIR_NEW_OUTPUT"] = "0"
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        algorithm = OptunaSearch(self._space.propose, metric=METRIC, mode="max", seed=self._seed)
        scheduler = ASHAScheduler(
            time_attr=TIME, metric=METRIC, mode="max", max_t=self._seeds, grace_period=1, reduction_factor=REDUCTION
        )
        function = partial(_trial, space=self._space, seeds=self._seeds, broker=self._broker)
        tuner = tune.Tuner(
            tune.with_resources(function, {"cpu": 0, "memory": TRIAL_MEMORY}),
            tune_config=tune.TuneConfig(
                num_samples=self._trials, search_alg=ConcurrencyLimiter(algorithm, self._concurrent),
                scheduler=scheduler, reuse_actors=True,
            ),
            run_config=tune.RunConfig(storage_path=self._folder, verbose=0, stop=_WhenTold(self._told)),
        )  # fmt: skip
        try:
            found = tuner.fit()
            # Of a trial that was lost with its node the others know nothing.
            self._error = found.errors[0] if len(found.errors) == len(found) else None
        except Exception as error:  # whatever it is, the driver's thread raises it
            self._error = error
