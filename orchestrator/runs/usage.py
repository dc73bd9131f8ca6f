"""The table ``usage``: what workers' time went into, what it costs, and whether a budget allows more of it."""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime

import pyarrow as pa
import pyarrow.compute as pc

from loco_core.errors import StoreError
from orchestrator.scheduler.usage import ACTIVITIES, Interval
from orchestrator.spec.budget import BudgetSpec, CostSpec
from orchestrator.store import SCHEMA_VERSION, LeaseLostError, Store, layout, make_table
from orchestrator.store.reads import committed_rows, published_units

logger = logging.getLogger(__name__)
HOUR = 3600.0
_KEY = ["model", "device", "gpus", "per_gpu_hour"]
_SECONDS = ["seconds", *ACTIVITIES, "waiting"]
NO_PRICES = CostSpec()
LEAST_HOURS = 300 / HOUR
LEAST_SHARE = 0.02
"""A pace counts as measured once workers have worked so many hours, or done this share of all expected seconds."""
Span = tuple[float, float]


@dataclass(frozen=True)
class Usage:
    """Time of workers that had the same model, device and price.

    Attributes:
        model: their model; empty of workers that were gone before they had any.
        device: name of their device; empty of such workers.
        gpus: GPUs of each.
        per_gpu_hour: price that their commands were given; None without one.
        hours: hours of workers, all taken together.
        loading: hours of these in which they loaded a model.
        computing: hours in units.
        scoring: hours in which the scorer or the judge looked at pictures.
        committing: hours in which results were written.
        waiting: hours in which they had nothing to do.
    """

    model: str
    device: str
    gpus: int
    per_gpu_hour: float | None
    hours: float
    loading: float
    computing: float
    scoring: float
    committing: float
    waiting: float

    @property
    def gpu_hours(self) -> float:
        """Hours of GPUs; of workers where they have none."""
        return self.hours * max(1, self.gpus)

    @property
    def working(self) -> float:
        """Hours in which units were computed, scored and written: what more units take more of."""
        return self.computing + self.scoring + self.committing

    @property
    def parts(self) -> dict[str, float]:
        """Hours by what they went into, waiting included."""
        return {name: getattr(self, name) for name in (*ACTIVITIES, "waiting")}

    def cost(self, prices: CostSpec) -> float | None:
        """Returns what it costs, at the given prices or else at that of its command; None where neither says one."""
        price = prices.price(self.device) if prices.known else self.per_gpu_hour
        return None if price is None else self.gpu_hours * price


@dataclass(frozen=True)
class Spent:
    """What all commands on some results used.

    Attributes:
        usage: by model, device and price.
        spans: times in which there was any worker, in seconds of the clock, apart from each other and in their order.
    """

    usage: tuple[Usage, ...] = ()
    spans: tuple[Span, ...] = ()

    @property
    def gpu_hours(self) -> float:
        """Hours of GPUs; of workers where they have none."""
        return sum(item.gpu_hours for item in self.usage)

    @property
    def hours(self) -> float:
        """Hours in which there was any worker."""
        return sum(ended - began for began, ended in self.spans) / HOUR


def spent(store: Store, published: Mapping[str, int] | None = None, committed: frozenset[str] | None = None) -> Spent:
    """Reads what all commands on some results used so far.

    Args:
        store: the results.
        published: from `orchestrator.store.reads.published_units`; None reads it.
        committed: from `Store.all_committed`; None lists it.
    """
    named = frozenset(filter(layout.is_usage, store.all_committed() if committed is None else committed))
    parts = published_units(store) if published is None else published
    rows = committed_rows(store, "usage", [*_KEY, *_SECONDS, "began"], parts, named)
    sums = rows.group_by(_KEY).aggregate([(name, "sum") for name in _SECONDS])
    usage = tuple(
        Usage(
            row["model"] or "", row["device"] or "", row["gpus"] or 0, row["per_gpu_hour"],
            *(row[f"{name}_sum"] / HOUR for name in _SECONDS),
        )
        for row in sums.sort_by([(name, "ascending") for name in _KEY]).to_pylist()
    )  # fmt: skip
    began = pc.cast(rows["began"], pa.int64()).to_numpy() / 1000
    return Spent(usage, covered(zip(began.tolist(), (began + rows["seconds"].to_numpy()).tolist(), strict=True)))


def unit_of(gpus: Iterable[int | None]) -> str:
    """Returns what hours of workers with so many GPUs each are hours of."""
    return "GPU hours" if any(gpus) else "worker hours"


def total_cost(used: Iterable[Usage], prices: CostSpec) -> float | None:
    """Returns what usage costs together; None where the price of some of it is not known."""
    costs = [item.cost(prices) for item in used]
    return None if None in costs else sum(cost for cost in costs if cost is not None)


def is_enough(working: float, done: float, total: float) -> bool:
    """Tells whether a pace can be told from what was done.

    Args:
        working: hours in which units were worked on.
        done: expected seconds of units that are done.
        total: the same of all.
    """
    return bool(working and done) and (working >= LEAST_HOURS or done >= LEAST_SHARE * total)


def projected(
    used: Iterable[Usage], expected: Mapping[str, tuple[float, float]], gpus: Mapping[str, int | None]
) -> tuple[Usage, ...] | None:
    """Returns what will have been used when all units are done, at the pace so far.

    Args:
        used: what is used.
        expected: seconds of units by the cost table, by model: of those that are done, and of all.
        gpus: GPUs of a worker by model; None where it takes what there is.

    Returns:
        The same; None before enough is done. What was loaded and waited is counted once, as workers keep their models.
        Of a model of which not enough is done it is assumed that its workers are as fast, against the cost table, as
        those of the others.
    """
    items = list(used)
    working = {model: sum(item.working for item in items if item.model == model) for model in expected}
    at_work = {model for model, (done, total) in expected.items() if is_enough(working[model], done, total)}
    if not at_work:
        return None
    hours, done = sum(working[model] for model in at_work), sum(expected[model][0] for model in at_work)
    found = [
        _times(item, expected[item.model][1] / expected[item.model][0]) if item.model in at_work else item
        for item in items
    ]
    like = max(items, key=lambda item: item.hours)
    for model, (_, total) in expected.items():
        if model not in at_work and total:
            each = gpus.get(model)
            rest = (total - expected[model][0]) * hours / done
            found.append(
                Usage(
                    model, like.device, like.gpus if each is None else each, like.per_gpu_hour, rest, 0, rest, 0, 0, 0
                )
            )
    return tuple(found)


def _times(item: Usage, factor: float) -> Usage:
    more = {name: getattr(item, name) * factor for name in ("computing", "scoring", "committing")}
    return replace(item, hours=item.hours + item.working * (factor - 1), **more)


def covered(spans: Iterable[Span]) -> tuple[Span, ...]:
    """Returns times that overlap or touch as one, in their order."""
    found: list[Span] = []
    for began, ended in sorted(spans):
        if found and began <= found[-1][1]:
            found[-1] = (found[-1][0], max(found[-1][1], ended))
        else:
            found.append((began, ended))
    return tuple(found)


class UsageLedger:
    """Writes intervals into the results, and holds what was used against a budget.

    See `orchestrator.scheduler.usage.Ledger`.
    """

    def __init__(self, store: Store, sweep_id: str, prices: CostSpec, budget: BudgetSpec | None) -> None:
        """Starts from what earlier commands used.

        Args:
            store: the results.
            sweep_id: identity of the sweep.
            prices: prices of GPUs.
            budget: how much may be used, that of earlier commands included; None is no limit.
        """
        self._store, self._sweep_id, self._prices, self._budget = store, sweep_id, prices, budget
        self._run_id = uuid.uuid4().hex[:12]
        self._unwritten: dict[str, pa.Table] = {}
        before = spent(store)
        self._cost = sum(item.cost(prices) or 0.0 for item in before.usage)
        self._gpu_hours, self._spans = before.gpu_hours, before.spans

    def record(self, intervals: Sequence[Interval]) -> None:
        """Writes intervals; what the storage does not take is written with the next."""
        self._cost, self._gpu_hours, self._spans = self._with(intervals)
        if intervals:
            now = datetime.now(UTC)
            name = f"{layout.USAGE_PREFIX}{now:%Y%m%dT%H%M%S}-{uuid.uuid4().hex[:16]}"
            self._unwritten[name] = self._table(name, intervals)
        for name, rows in list(self._unwritten.items()):
            try:
                self._store.commit_unit(name, {"usage": rows}, self._run_id)
            except LeaseLostError:
                raise
            except StoreError as error:
                # No reason to stop what is paid for.
                logger.warning("usage is not recorded: %s", error)
                return
            del self._unwritten[name]

    def _table(self, name: str, intervals: Sequence[Interval]) -> pa.Table:
        now, priced = time.time(), self._prices.known
        rows = [
            {
                "sweep_id": self._sweep_id, "unit_id": name, "run_id": self._run_id, "worker": item.worker,
                "model": item.model, "device": item.device, "gpus": item.gpus,
                "began": datetime.fromtimestamp(now - item.ended - item.seconds, UTC),
                **{each: getattr(item, each) for each in _SECONDS},
                "per_gpu_hour": self._prices.price(item.device) if priced else None, "schema_version": SCHEMA_VERSION,
            }
            for item in intervals
        ]  # fmt: skip
        return make_table("usage", rows)

    def _with(self, intervals: Sequence[Interval]) -> tuple[float, float, tuple[Span, ...]]:
        """Returns cost, GPU hours, and times in which there was a worker, with some more intervals."""
        now, cost, gpu_hours = time.time(), self._cost, self._gpu_hours
        for item in intervals:
            hours = max(1, item.gpus) * item.seconds / HOUR
            gpu_hours += hours
            cost += hours * self._prices.price(item.device)
        spans = ((now - item.ended - item.seconds, now - item.ended) for item in intervals)
        return cost, gpu_hours, covered([*self._spans, *spans])

    @property
    def used(self) -> tuple[float, float | None]:
        """GPU hours of all commands so far, and what they cost; None where nobody says a price."""
        return self._gpu_hours, self._cost if self._prices.known else None

    def used_up(self, running: Callable[[], Sequence[Interval]]) -> str:
        """Returns the first limit that is reached, in words; empty while none is."""
        if self._budget is None:
            return ""
        cost, gpu_hours, spans = self._with(running())
        limits = self._budget.limits(cost, gpu_hours, Spent(spans=spans).hours)
        return next((f"{each.name}: {each} used" for each in limits if each.used >= each.limit), "")
