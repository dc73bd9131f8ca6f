"""What a sweep has used and will use, in words and as JSON: lines of ``status``, ``plan`` and ``submit``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from orchestrator.runs.usage import Usage, total_cost, unit_of

if TYPE_CHECKING:
    from orchestrator.runs.outlook import Outlook
    from orchestrator.runs.status import SweepStatus
    from orchestrator.spec import ClusterSpec
    from orchestrator.spec.budget import BudgetSpec, CostSpec


def gpu_hours(used: Sequence[Usage]) -> float:
    """Returns hours of GPUs; of workers where they have none."""
    return sum(item.gpu_hours for item in used)


def costs(found: SweepStatus, prices: CostSpec) -> dict[str, float]:
    """Returns GPU hours and, where prices are known, cost, so far and at the end."""
    amounts: dict[str, float] = {}
    for when, used in (("so_far", found.usage), ("at_end", found.usage_at_end)):
        if used is not None:
            amounts[f"gpu_hours_{when}"] = gpu_hours(used)
            if used and (cost := total_cost(used, prices)) is not None:
                amounts[f"cost_{when}"] = cost
    return amounts


def used_lines(found: SweepStatus, prices: CostSpec, budget: BudgetSpec | None) -> Iterator[str]:
    """Yields what a sweep has used, and will have used at its end; nothing before a worker was there."""
    amounts, used = costs(found, prices), found.usage
    if not used:
        return
    total = sum(item.hours for item in used) or 1.0
    parts = {name: sum(item.parts[name] for item in used) / total for name in used[0].parts}
    what = ", ".join(f"{name} {share:.0%}" for name, share in parts.items())
    yield f"{unit_of(item.gpus for item in used)}: {amounts['gpu_hours_so_far']:.2f} so far ({what})"
    if "gpu_hours_at_end" in amounts:
        yield f"         about {amounts['gpu_hours_at_end']:.2f} when all that is planned is done, at the pace so far"
    if "cost_so_far" in amounts:
        end = f", about {amounts['cost_at_end']:.2f} at the end" if "cost_at_end" in amounts else ""
        yield f"cost: {amounts['cost_so_far']:.2f}{end}"
    for device in sorted(
        {item.device for item in used if item.device and prices.known and not prices.names(item.device)}
    ):
        yield f"         {device} has no price of its own and counts at the highest, {prices.range[1]:g}"
    if budget is not None:
        limits = budget.limits(total_cost(used, prices), gpu_hours(used), found.hours)
        yield f"budget: {', '.join(f'{each} used' if each.unit else f'cost {each} used' for each in limits)}"


@dataclass(frozen=True)
class Expected:
    """What remains of a sweep on a cluster.

    Attributes:
        gpu_hours: hours of GPUs, or of workers where they have none.
        edit_gpu_hours: hours that edits take in addition, at the most.
        hours: hours with all workers at once; None where nobody says how many these are.
        workers: how many these are.
        cost: cost of the GPU hours, at the lowest and at the highest price; None without a price.
        edit_cost: the same of edits.
    """

    gpu_hours: float
    edit_gpu_hours: float
    hours: float | None
    workers: int | None
    cost: tuple[float, float] | None
    edit_cost: tuple[float, float] | None


def expected(found: Outlook, cluster: ClusterSpec) -> Expected:
    """Returns what a sweep will use on its cluster.

    Args:
        found: what remains.
        cluster: its cluster file.
    """
    hours, edits = (sum(getattr(item, name) for item in found.models) for name in ("gpu_hours", "edit_gpu_hours"))
    workers = None if cluster.workers.max == "auto" else cluster.workers.max
    if cluster.cluster.local and workers is None:
        from orchestrator.backends.choice import worker_count

        workers = worker_count(None)
    return Expected(
        hours, edits, sum(item.hours for item in found.models) / workers if workers else None, workers,
        _cost(found, cluster, "gpu_hours"), _cost(found, cluster, "edit_gpu_hours"),
    )  # fmt: skip


def _cost(found: Outlook, cluster: ClusterSpec, what: str) -> tuple[float, float] | None:
    """Returns the least and the most that hours of GPUs cost, each model on what it can run on."""
    if not cluster.cost.known:
        return None
    low = high = 0.0
    for item in found.models:
        gpus = cluster.workers.gpus if item.gpus is None else item.gpus
        least, most = cluster.cost.range_of(gpus, item.types)
        low, high = low + least * getattr(item, what), high + most * getattr(item, what)
    return low, high


def expected_lines(found: Outlook, cluster: ClusterSpec) -> Iterator[str]:
    """Yields what a sweep will use on its cluster, and where that exceeds its budget.

    Args:
        found: what remains.
        cluster: its cluster file.
    """
    from orchestrator.face.progress import duration

    bill, used = expected(found, cluster), found.used.usage
    what = unit_of(item.gpus for item in found.models)
    yield f"bill:    about {bill.gpu_hours:.3g} {what}{_money(bill.cost)}"
    yield f"         {_basis(found)}"
    if bill.edit_gpu_hours:
        yield f"         and up to {bill.edit_gpu_hours:.3g}{_money(bill.edit_cost)} for edits"
    if bill.hours is not None and bill.workers is not None:
        took = duration(3600 * bill.hours)
        yield f"         about {took} with {_workers(bill.workers)}, once all of them have loaded"
    if used:
        spent = total_cost(used, cluster.cost)
        cost = _money(None if spent is None else (spent, spent))
        yield f"         {gpu_hours(used):.3g} {what}{cost} are used already"
    if cluster.budget is not None:
        yield from _budget_lines(found, bill, cluster)


def _budget_lines(found: Outlook, bill: Expected, cluster: ClusterSpec) -> Iterator[str]:
    assert cluster.budget is not None
    spent = total_cost(found.used.usage, cluster.cost) or 0.0
    limits = cluster.budget.limits(
        spent + bill.cost[1] if bill.cost else None, gpu_hours(found.used.usage) + bill.gpu_hours,
        found.used.hours + (bill.hours or 0.0),
    )  # fmt: skip
    for each in limits:
        if each.used > each.limit:
            yield (
                f"warning: budget.{each.name}: about {each} are expected, and the sweep would stop before its end; "
                "raise it, or sweep less"
            )


def _money(cost: tuple[float, float] | None) -> str:
    if cost is None:
        return ""
    low, high = cost
    return f" (cost {high:.2f})" if low == high else f" (cost {low:.2f} to {high:.2f}, by the type of GPU)"


def _workers(count: int) -> str:
    return "1 worker" if count == 1 else f"{count} workers at once"


def _basis(found: Outlook) -> str:
    if found.measured:
        return "at the pace so far, on the devices so far"
    some = [item.model for item in found.models if item.measured]
    return (
        f"at the pace so far of {', '.join(some)}; of others by an assumed cost per image"
        if some
        else "by an assumed cost per image, the same for every type of GPU"
    )
