"""Options that several commands share, and the backend that they choose."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from loco_core import plugins
from loco_core.errors import SpecError, did_you_mean
from orchestrator.cli import places

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pydantic import BaseModel

    from loco_core.types import Window
    from orchestrator.spec.budget import BudgetSpec, CostSpec

    M = TypeVar("M", bound=BaseModel)


class BackendName(StrEnum):
    """Where units run."""

    RAY = "ray"
    INLINE = "inline"


def _trust(given: bool) -> bool:
    if given:
        plugins.trust()
    return given


def at_home(path: Path | None) -> Path | None:
    """Returns a path of an option that may be left out, see `orchestrator.cli.places.at_home`."""
    return None if path is None else places.at_home(path)


SweepFile = Annotated[
    Path,
    typer.Argument(help="The sweep, as YAML; - reads standard input.", metavar="SWEEP.yaml", callback=places.at_home),
]
SweepOrResults = Annotated[
    str,
    typer.Argument(
        help="The sweep, as YAML; - reads standard input. Or a results folder to resume.", metavar="SWEEP.yaml"
    ),
]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="KEY=VALUE",
        help="Values in place of the file's, such as seeds=16 or generation.steps=20. With a cluster file, keys of it "
        "and of its sweep; one that both have is the cluster file's.",
    ),
]
_RESULTS = "A results folder or address, or the sweep file or cluster file that they are of."
ResultsOrFile = Annotated[str, typer.Argument(help=_RESULTS, metavar="RESULTS")]
Results = Annotated[str, typer.Argument(help=_RESULTS, metavar="RESULTS", callback=places.results_root)]
ResultsOption = Annotated[
    str | None,
    typer.Option(
        "--results",
        help="Results folder or address, such as s3://bucket/folder; default: the sweep's own, or results/NAME.",
    ),
]
BackendOption = Annotated[BackendName, typer.Option("--backend", help="Workers on Ray, or one worker in this process.")]
WorkersOption = Annotated[
    int | None,
    typer.Option(
        "--workers",
        min=1,
        help="Number of workers; default: one per GPU, or one per CPU core, of the machine or cluster.",
    ),
]
ThreadsOption = Annotated[
    int | None,
    typer.Option("--threads", min=1, help="CPU threads per worker; the same number makes results equal bit for bit."),
]
AddressOption = Annotated[
    str | None, typer.Option("--address", help="Address of a running Ray cluster; default: start Ray here.")
]
PriorityOption = Annotated[
    float | None,
    typer.Option(
        "--priority", min=0.001, max=1000, help="Weight of its share of a cluster that others sweep on; default: 1."
    ),
]
MaxFailuresOption = Annotated[
    int | None,
    typer.Option("--max-failures", min=0, metavar="N", help="Stop after more than N units have failed for good."),
]
PriceOption = Annotated[
    str | None,
    typer.Option(
        "--price",
        metavar="PRICE",
        help="Price per GPU and hour, such as 2.5, or H100=2.5,A100=1.6 for several types of GPU.",
    ),
]
BudgetOption = Annotated[
    str | None,
    typer.Option(
        "--budget",
        metavar="LIMIT=N",
        help="Stop when all runs together have used so much: gpu_hours=100, hours=12 or cost=250, or several.",
    ),
]
ModelOption = Annotated[str | None, typer.Option("--model", help="Only this model.")]
AttributeOption = Annotated[list[str] | None, typer.Option("--attribute", help="Only this attribute; may be repeated.")]
TrustOption = Annotated[
    bool, typer.Option("--trust", help="Run the Python files that the results name.", callback=_trust)
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def parse_price(text: str | None) -> CostSpec:
    """Reads ``2.5`` or ``H100=2.5,A100=1.6``; None is no price.

    Raises:
        SpecError: it is something else.
    """
    from orchestrator.spec.budget import CostSpec

    if text is None:
        return CostSpec()
    value = _numbers("--price", text) if "=" in text else _number("--price", text)
    return _checked(CostSpec, "--price", {"per_gpu_hour": value})


def parse_budget(text: str | None, prices: CostSpec) -> BudgetSpec | None:
    """Reads ``gpu_hours=100,cost=250``; None is no limit.

    Args:
        text: what was given.
        prices: prices, without which nothing is known of a cost.

    Raises:
        SpecError: it is something else.
    """
    from orchestrator.spec.budget import BudgetSpec

    if text is None:
        return None
    if "=" not in text:
        raise SpecError(f"--budget {text}: {text} of what? expected gpu_hours=100, hours=12 or cost=250")
    limits, known = _numbers("--budget", text), ("cost", "gpu_hours", "hours")
    if unknown := [name for name in limits if name not in known]:
        raise SpecError(f'--budget: no limit "{unknown[0]}"{did_you_mean(unknown[0], known)}')
    budget = _checked(BudgetSpec, "--budget", limits)
    if budget.cost is not None and not prices.known:
        raise SpecError("--budget cost=..: no price is given; expected --price, too")
    return budget


def _numbers(option: str, text: str) -> dict[str, float]:
    pairs = [part.partition("=") for part in text.split(",")]
    return {name.strip(): _number(option, number) for name, _, number in pairs}


def _number(option: str, text: str) -> float:
    try:
        return float(text)
    except ValueError:
        what = "2.5 or H100=2.5,A100=1.6" if option == "--price" else "gpu_hours=100, hours=12 or cost=250"
        raise SpecError(f"{option}: {text!r} is no number; expected {option} {what}") from None


def _checked(model: type[M], option: str, values: Mapping[str, object]) -> M:
    from pydantic import ValidationError

    try:
        return model.model_validate(values)
    except ValidationError as error:
        problem = error.errors()[0]
        raise SpecError(f"{option}: {'.'.join(map(str, problem['loc']))}: {problem['msg']}") from None


def parse_window(text: str) -> Window:
    """Reads ``START,SIZE``.

    Raises:
        SpecError: it is something else.
    """
    from loco_core.types import Window

    try:
        start, size = (int(part) for part in text.split(","))
    except ValueError:
        raise SpecError(f"--window {text}: expected START,SIZE such as 8,2") from None
    return Window(start, size)
