"""What GPUs cost, and how much of them a sweep may use."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Discriminator, Field, Tag, model_validator

from orchestrator.spec.accelerators import is_called, priced, words_of
from orchestrator.spec.rules import Strict, problem

Price = Annotated[float, Field(ge=0)]
GpuName = Annotated[str, AfterValidator(priced)]
Limit = Annotated[float, Field(gt=0)]


def _is_mapping(value: Any) -> str:
    return "mapping" if isinstance(value, dict) else "number"


class CostSpec(Strict):
    """Prices."""

    per_gpu_hour: Annotated[
        Annotated[Price, Tag("number")] | Annotated[dict[GpuName, Price], Field(min_length=1), Tag("mapping")],
        Discriminator(_is_mapping),
    ] = Field(
        0.0,
        description="Price per GPU and hour, in any currency; per worker and hour where workers have no GPU. Of "
        "several types of GPU a price for each, by words of its name, such as `H100`, `A100-80GB` or `cpu`: the name "
        "with most words counts, and of others the highest price.",
        examples=[2.5, {"H100": 2.5, "A100": 1.6, "A100-80GB": 2.1}],
    )

    @property
    def known(self) -> bool:
        """Whether there is a price."""
        return bool(self.range[1])

    @property
    def range(self) -> tuple[float, float]:
        """The lowest and the highest price."""
        prices = self.per_gpu_hour.values() if isinstance(self.per_gpu_hour, dict) else (self.per_gpu_hour,)
        return min(prices), max(prices)

    def range_of(self, gpus: int | None, called: Iterable[str] = ()) -> tuple[float, float]:
        """Returns the lowest and the highest price of what a worker may run on.

        Args:
            gpus: GPUs of the worker; None takes what there is.
            called: names of the types of GPU that will do, or of the devices it has; any will where there is none.
        """
        if not isinstance(self.per_gpu_hour, dict):
            return self.range
        if gpus == 0:
            return self.price("cpu"), self.price("cpu")
        found = []
        for name in called:
            # Of an A100 it is open whether it will be one of 80 GB.
            some = [price for key, price in self.per_gpu_hour.items() if is_called(key, name)]
            found += [*some, *([self.price(name)] if self.names(name) or not some else [])]
        if not found:
            found = [price for name, price in self.per_gpu_hour.items() if not gpus or name.lower() != "cpu"]
        return (min(found), max(found)) if found else self.range

    def names(self, device: str) -> bool:
        """Tells whether a GPU has a price of its own, see `price`."""
        return self._own(device) is not None

    def price(self, device: str) -> float:
        """Returns the price of a GPU, the highest of a type that has none.

        Args:
            device: name of the device, as in the column ``device`` of ``usage``.
        """
        own = self._own(device)
        return self.range[1] if own is None else own

    def _own(self, device: str) -> float | None:
        if not isinstance(self.per_gpu_hour, dict):
            return self.per_gpu_hour
        # The name with most words is the most exact: A100-80GB before A100.
        called = [name for name in self.per_gpu_hour if is_called(device, name)]
        return self.per_gpu_hour[max(called, key=lambda name: len(words_of(name)))] if called else None


@dataclass(frozen=True)
class Limited:
    """One limit of a budget, and how far it is.

    Attributes:
        name: its key.
        used: what is used of it.
        limit: the limit.
        unit: what both are, in words; empty of a price.
    """

    name: str
    used: float
    limit: float
    unit: str

    def __str__(self) -> str:
        """Says how much is used of how much."""
        return f"{self.used:.4g} of {self.limit:g}{self.unit}"


class BudgetSpec(Strict):
    """How much a sweep may use, all of its runs taken together; the first limit that is reached counts."""

    cost: Limit | None = Field(
        None, description="What its workers may cost, at the prices of `cost`. Default: no limit.", examples=[250.0]
    )
    gpu_hours: Limit | None = Field(
        None,
        description="Hours of GPUs, or of workers where they have none. Default: no limit.",
        examples=[100.0],
    )
    hours: Limit | None = Field(
        None,
        description="Hours in which there is any worker. A RayJob is ended half an hour after so many hours, those in "
        "which it waits for nodes included. Default: no limit.",
        examples=[12.0],
    )
    then: Literal["stop"] = Field(
        "stop",
        description="`stop` ends the sweep after the units that are running; the same command resumes it once the "
        "limit is raised.",
        examples=["stop"],
    )

    def limits(self, cost: float | None, gpu_hours: float, hours: float) -> tuple[Limited, ...]:
        """Returns its limits, each with what is used of it.

        Args:
            cost: what all workers cost; None where that is not known.
            gpu_hours: hours of GPUs, or of workers where they have none.
            hours: hours in which there was any worker.
        """
        found = (
            Limited("cost", cost, self.cost, "") if cost is not None and self.cost else None,
            Limited("gpu_hours", gpu_hours, self.gpu_hours, " GPU hours") if self.gpu_hours else None,
            Limited("hours", hours, self.hours, " hours") if self.hours else None,
        )
        return tuple(filter(None, found))

    @model_validator(mode="after")
    def _check(self) -> BudgetSpec:
        if self.cost is None and self.gpu_hours is None and self.hours is None:
            raise problem((), "no limit is given; expected cost, gpu_hours or hours")
        return self
