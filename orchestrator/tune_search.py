"""Settings of an edit, proposed by Optuna and stopped by ASHA, through Ray Tune.

Trials are processes that only wait: they ask a broker for measurements, which the driver hands to the workers of the
sweep. A trial that asked for a GPU, or for CPUs, would wait for ever for what those workers hold.
"""

from __future__ import annotations

import asyncio
import os
import tempfile
import threading
from dataclasses import dataclass
from functools import partial
from typing import Any, get_args

import optuna
import ray
from ray import tune
from ray.tune.schedulers import ASHAScheduler
from ray.tune.search import ConcurrencyLimiter
from ray.tune.search.optuna import OptunaSearch

from loco_core.editors import EditSettings, TokenSet
from loco_core.errors import LocoError
from loco_core.types import Window
from orchestrator.scheduler.host import one_line
from orchestrator.stages.tune import Request

METRIC, TIME = "objective", "seeds"
REDUCTION = 2
"""Of the trials that reach a rung, one in so many goes on."""
LAMBDAS, NEURONS = (1e-4, 10.0), (0.01, 0.3)
TRIAL_MEMORY = 1 << 20
"""What a trial takes of its node, in bytes: Ray Tune knows no trial that takes nothing."""


@dataclass(frozen=True)
class Space:
    """What is searched.

    Attributes:
        editors: keys of editors.
        window: the sites, or None: any window of at most ``largest`` sites.
        n_sites: of the model.
        largest: sites of the largest window.
        preserve: see `loco_core.editors.EditSettings`.
        fill: see `loco_core.editors.EditSettings`.
    """

    editors: tuple[str, ...]
    window: Window | None
    n_sites: int
    largest: int
    preserve: int
    fill: str

    def propose(self, trial: Any) -> None:
        """Names the parameters of an Optuna trial; those of the other editor are not asked for."""
        editor = trial.suggest_categorical("editor", list(self.editors))
        if editor == "neurons":
            trial.suggest_float("neurons", *NEURONS, log=True)
        else:
            trial.suggest_float("lambda", *LAMBDAS, log=True)
        trial.suggest_categorical("tokens", list(get_args(TokenSet)))
        if self.window is None:
            trial.suggest_int("size", 1, self.largest)
            trial.suggest_int("start", 0, self.n_sites - 1)

    def request(self, trial: str, config: dict[str, Any], seeds: int) -> Request:
        """Turns a trial's parameters into what it asks for."""
        settings: dict[str, Any] = {"editor": config["editor"], "tokens": config["tokens"], "fill": self.fill}
        if config["editor"] == "neurons":
            settings["neurons"] = config["neurons"]
        else:
            settings |= {"strength": config["lambda"], "preserve": self.preserve}
        window = self.window
        if window is None:
            size = config["size"]
            window = Window(min(config["start"], self.n_sites - size), size)
        return Request(trial, EditSettings(**settings), window, seeds)


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
    """A search on the Ray that this process is connected to. See `orchestrator.stages.tune.Search`.

    Args:
        space: what is searched.
        trials: how many settings are tried.
        concurrent: how many at once.
        seeds: on how many a trial is measured that is never stopped.
        seed: of the search.
    """

    def __init__(self, space: Space, *, trials: int, concurrent: int, seeds: int, seed: int) -> None:
        self._space, self._trials, self._concurrent = space, trials, concurrent
        self._seeds, self._seed = seeds, seed
        self._broker: Any = None
        self._thread = threading.Thread(target=self._search, daemon=True, name="tune")
        self._error: Exception | None = None

    def start(self) -> None:
        """Begins to propose."""
        self._broker = ray.remote(_Broker).options(num_cpus=0, max_concurrency=self._trials + 2).remote()
        self._thread.start()

    def take(self) -> list[Request]:
        """Returns what trials ask for since the last call."""
        return list(ray.get(self._broker.take.remote()))

    def answer(self, trial: str, objective: float) -> None:
        """Tells a trial how it did."""
        ray.get(self._broker.answer.remote(trial, objective))

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

    def _search(self) -> None:
        # Nothing but the table of trials is kept of a search.
        os.environ["TUNE_DISABLE_AUTO_CALLBACK_LOGGERS"] = "1"
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        algorithm = OptunaSearch(self._space.propose, metric=METRIC, mode="max", seed=self._seed)
        scheduler = ASHAScheduler(
            time_attr=TIME, metric=METRIC, mode="max", max_t=self._seeds, grace_period=1, reduction_factor=REDUCTION
        )
        function = partial(_trial, space=self._space, seeds=self._seeds, broker=self._broker)
        with tempfile.TemporaryDirectory(prefix="loco-tune-") as folder:
            tuner = tune.Tuner(
                tune.with_resources(function, {"cpu": 0, "memory": TRIAL_MEMORY}),
                tune_config=tune.TuneConfig(
                    num_samples=self._trials, search_alg=ConcurrencyLimiter(algorithm, self._concurrent),
                    scheduler=scheduler, reuse_actors=True,
                ),
                run_config=tune.RunConfig(storage_path=folder, verbose=0),
            )  # fmt: skip
            try:
                errors = tuner.fit().errors
                self._error = errors[0] if errors else None
            except Exception as error:  # whatever it is, the driver's thread raises it
                self._error = error
