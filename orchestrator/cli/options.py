"""Options that several commands share, and the backend that they choose."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from loco_core import registry
from loco_core.errors import LocoError, SpecError

if TYPE_CHECKING:
    from loco_core.types import Window
    from orchestrator.scheduler.protocol import Backend
    from orchestrator.spec import SweepSpec
    from orchestrator.worker import WorkerSettings


class BackendName(StrEnum):
    """Where units run."""

    RAY = "ray"
    INLINE = "inline"


def is_cluster_file(results: str) -> bool:
    """Tells whether a cluster file stands in place of the results that it names."""
    return results.endswith((".yaml", ".yml")) and not Path(results).is_dir()


def results_root(results: str) -> str:
    """Returns the results that an argument names, from the working directory on."""
    from orchestrator.spec.places import anchored

    if not is_cluster_file(results):
        return anchored(results)
    from orchestrator.submit import load_cluster

    return load_cluster(results).spec.results


def _trust(given: bool) -> bool:
    if given:
        registry.trust()
    return given


def at_home(path: Path | None) -> Path | None:
    """Returns a path of the command line; the shell leaves the ``~`` of ``--option=~/x`` to its program."""
    from orchestrator.spec.places import anchored

    return Path(anchored(str(path))) if path is not None and str(path).startswith("~") else path


SweepFile = Annotated[Path, typer.Argument(help="The sweep, as YAML.", metavar="SWEEP.yaml", callback=at_home)]
_RESULTS = "A results folder, an s3:// address, or a cluster file."
ResultsOrCluster = Annotated[str, typer.Argument(help=_RESULTS, metavar="RESULTS")]
Results = Annotated[str, typer.Argument(help=_RESULTS, metavar="RESULTS", callback=results_root)]
ResultsOption = Annotated[
    str | None,
    typer.Option("--results", help="Results folder or s3:// address; default: as in the sweep, or results/NAME here."),
]
BackendOption = Annotated[BackendName, typer.Option("--backend", help="Ray actors, or one worker in this process.")]
WorkersOption = Annotated[
    int | None, typer.Option("--workers", min=1, help="Workers; default: one a GPU, or one a CPU core.")
]
ThreadsOption = Annotated[
    int | None,
    typer.Option("--threads", min=1, help="CPU threads a worker; equal counts make results equal bit for bit."),
]
AddressOption = Annotated[
    str | None, typer.Option("--address", help="A running Ray cluster to join; default: start one.")
]
MaxFailuresOption = Annotated[
    int | None, typer.Option("--max-failures", min=0, help="Stop after this many units were given up.")
]
ModelOption = Annotated[str | None, typer.Option("--model", help="Only this model.")]
AttributeOption = Annotated[
    list[str] | None, typer.Option("--attribute", help="Only this attribute; may be given several times.")
]
TrustOption = Annotated[
    bool, typer.Option("--trust", help="Run the Python files that the results name.", callback=_trust)
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def results_of(spec: SweepSpec, given: str | None) -> str:
    """Returns where the results of a sweep go: from the working directory on where its file does not say it."""
    from orchestrator.identity import safe_name
    from orchestrator.spec.places import anchored

    return spec.results if given is None and spec.results else anchored(given or f"results/{safe_name(spec.name)}")


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


@contextmanager
def placed(sweep: Path) -> Iterator[None]:
    """Puts ``file:line:column`` before errors about a value of the sweep file."""
    from orchestrator.spec import place

    try:
        yield
    except LocoError as error:
        if not error.loc:
            raise
        raise type(error)(f"{place(sweep, error.loc)}: {error}") from error


def backend_maker(
    name: BackendName, workers: int | None, threads: int | None, address: str | None
) -> Callable[[WorkerSettings], Backend]:
    """Returns what starts the chosen backend.

    Raises:
        SpecError: the options do not go together.
    """
    cores = len(os.sched_getaffinity(0))
    if name is BackendName.INLINE:
        if workers not in (None, 1):
            raise SpecError(f"--workers {workers}: the inline backend has one worker; use --backend ray for more")
        if address is not None:
            raise SpecError("--address: the inline backend joins no cluster; use --backend ray")

        def inline(settings: WorkerSettings) -> Backend:
            from orchestrator.backends.inline import InlineBackend

            return InlineBackend(settings, threads=threads or cores)

        return inline

    if address is not None and workers is None:
        raise SpecError("--address: say how many workers the cluster is to run with --workers N")

    def ray(settings: WorkerSettings) -> Backend:
        from orchestrator.backends.ray import RayBackend

        # Workers of one thread: on two cores 1.3 times as fast as one worker of two threads (bundled model, batches of
        # 62). What cores another machine has is not known here.
        count = worker_count(workers)
        each = 1 if address else max(1, cores // count)
        return RayBackend(settings, workers=count, threads=threads or each, address=address)

    return ray


def worker_count(workers: int | None) -> int:
    """Returns how many workers a run on Ray has: as many as were asked for, or one a GPU, or one a core."""
    return workers or local_gpus() or len(os.sched_getaffinity(0))


def local_gpus() -> int:
    """Returns how many NVIDIA GPUs the driver shows; torch would take seconds to say so."""
    return len(list(Path("/proc/driver/nvidia/gpus").glob("*")))
