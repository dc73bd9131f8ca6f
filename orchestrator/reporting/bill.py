"""What all commands on some results used, and what it cost: a table of the report."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from orchestrator.runs.usage import NO_PRICES, Usage, total_cost, unit_of


@dataclass(frozen=True)
class BillLine:
    """A line of the table.

    Attributes:
        model: model of the workers; empty of those that had none yet.
        device: their device.
        hours: hours of GPUs, or of workers where they have none.
        shares: what the time went into, as shares by activity.
        cost: cost of it; None where the commands were given no price.
    """

    model: str
    device: str
    hours: float
    shares: dict[str, float]
    cost: float | None


@dataclass(frozen=True)
class Bill:
    """The table.

    Attributes:
        lines: a line per model, device and price.
        hours: hours of all lines.
        unit: what these are hours of.
        cost: cost of all lines; None where the price of some of them is not known.
    """

    lines: tuple[BillLine, ...]
    hours: float
    unit: str
    cost: float | None


def bill(used: Iterable[Usage]) -> Bill | None:
    """Returns the table, at the prices that the commands were given; None before any worker was there."""
    items = tuple(used)
    if not items:
        return None
    lines = tuple(BillLine(i.model, i.device, i.gpu_hours, _shares(i), i.cost(NO_PRICES)) for i in items)
    return Bill(
        lines, sum(line.hours for line in lines), unit_of(item.gpus for item in items), total_cost(items, NO_PRICES)
    )


def _shares(item: Usage) -> dict[str, float]:
    return {name: hours / item.hours if item.hours else 0.0 for name, hours in item.parts.items()}
