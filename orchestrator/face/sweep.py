"""A sweep from Python: what it is, what it would take, and running it."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from loco_core.errors import LocoError, ModelError
from orchestrator.backends.choice import backend_maker
from orchestrator.identity import safe_name
from orchestrator.spec import Source, SweepSpec, load_sweep, place
from orchestrator.spec.mapping import sweep_of
from orchestrator.spec.places import anchored

if TYPE_CHECKING:
    from orchestrator.face.results import Results
    from orchestrator.runs.outlook import Outlook


class Sweep:
    """What is to be swept: models, attributes, windows, prompts and seeds, and how pictures are made and scored.

    Attributes:
        spec: the sweep, checked; see :class:`orchestrator.spec.SweepSpec` for its keys.
        path: the file that it was read from; None where it comes from Python.
    """

    def __init__(self, content: str | Path | Mapping[str, Any] | None = None, **keys: Any) -> None:
        """Reads and checks a sweep.

        Args:
            content: a sweep file (YAML), or a dict with its keys; None where all keys are given by name.
            keys: keys of a sweep file by name, in place of those of the content; lists are fine.

        Raises:
            SpecError: one line per problem: where it is, what is wrong, and what was expected.

        Example:
            >>> import orchestrator
            >>> orchestrator.Sweep(
            ...     name="first", models=["toy"], attributes=["style/lumio"], prompts=2, seeds=2,
            ...     generation={"steps": 2, "guidance_scale": 3.0}, scorer="toy-clip",
            ... )
            Sweep('first': 1 model, 1 attribute, 2 prompts, 2 seeds)
            >>> orchestrator.Sweep(name="first", models=["toy"], prompts=0)
            Traceback (most recent call last):
            ...
            loco_core.errors.SpecError: attributes: Field required
            ...
        """
        self.path = Path(content) if isinstance(content, str | Path) else None
        if self.path is not None:
            self.spec = load_sweep(self.path)
            if keys:
                self.spec = sweep_of({**self.spec.model_dump(mode="json", exclude_unset=True), **keys})
        else:
            self.spec = sweep_of({**(content if isinstance(content, Mapping) else {}), **keys})

    def __repr__(self) -> str:
        spec = self.spec
        counts = {
            "model": len(spec.models), "attribute": len(spec.attributes), "prompt": spec.prompts,
            "seed": len(spec.seeds),
        }  # fmt: skip
        told = ", ".join(f"{count} {name}{'' if count == 1 else 's'}" for name, count in counts.items())
        return f"Sweep({spec.name!r}: {told})"

    def plan(self, results: str | Path | None = None) -> Outlook:
        """Says what a run would do; runs and writes nothing.

        Args:
            results: results folder or ``s3://`` address of earlier runs, if there may be any; None takes that of the
                sweep, or ``results/NAME`` here.

        Returns:
            units, images and cells that remain, expected seconds on one worker, and what the sweep can show.

        Raises:
            SpecError: a name is unknown, options do not go together, or the results cannot go on with this sweep.
            ModelError: the folder of a model is not there, or damaged; of a model that is published, weights need not
                be there.

        Example:
            >>> import orchestrator
            >>> sweep = orchestrator.Sweep(
            ...     name="first", models=["toy"], attributes=["style/lumio"], windows={"sizes": [2]}, prompts=2,
            ...     seeds=4, generation={"steps": 2, "guidance_scale": 3.0}, scorer="toy-clip",
            ... )
            >>> sweep.plan().cells
            168
        """
        with placed(self.path):
            return outlook_of(self.spec, results_of(self.spec, results))


def run(
    sweep: Sweep | str | Path | Mapping[str, Any],
    results: str | Path | None = None,
    backend: str = "ray",
    *,
    workers: int | None = None,
    threads: int | None = None,
    address: str | None = None,
    max_failures: int | None = None,
    retry: bool = False,
    progress: bool = True,
) -> Results:
    """Runs what remains of a sweep, and waits for it; the same call again resumes.

    Ctrl-C, or the stop button of a notebook, ends it after what is running; a second one now.

    Args:
        sweep: the sweep, its file, or a dict with its keys.
        results: results folder or ``s3://`` address; None takes that of the sweep, or ``results/NAME`` here.
        backend: ``ray`` for workers of Ray, ``inline`` for one worker in this process.
        workers: how many workers; None is one per GPU, or one per CPU core.
        threads: CPU threads per worker; equal counts make results equal bit for bit. None shares the cores.
        address: a running Ray cluster to join; None starts one here.
        max_failures: units that may be given up before the run stops; None does not stop.
        retry: compute failed cells again, too.
        progress: whether progress is shown: a live bar in a terminal, and in a notebook with ipywidgets; lines
            elsewhere.

    Returns:
        the results; how the run ended is in their ``ended``.

    Raises:
        SpecError: a name is unknown, options do not go together, or the results are of another sweep.
        ModelError: a model or its scorer cannot be had.
        StoreError: another driver is at work, or the results cannot be read or written.
        ClusterError: the cluster cannot be reached.
        KeyboardInterrupt: it was stopped twice.

    Example:
        >>> import orchestrator, tempfile
        >>> sweep = orchestrator.Sweep(
        ...     name="first", models=["toy"], attributes=["style/lumio"], windows={"sizes": [2], "stride": 4},
        ...     prompts=2, seeds=2, generation={"steps": 2, "guidance_scale": 3.0}, scorer="toy-clip",
        ...     controls={"random": 0},
        ... )
        >>> results = orchestrator.run(sweep, tempfile.mkdtemp() + "/first", "inline", threads=1, progress=False)
        >>> results.ended.summary.outcome, len(results.scores())
        ('done', 32)
    """
    from orchestrator.face.progress import reporter
    from orchestrator.face.results import Results
    from orchestrator.face.terminal import stoppable
    from orchestrator.runs.sweep import run_sweep
    from orchestrator.scheduler.loop import StopSwitch

    chosen, stop = sweep if isinstance(sweep, Sweep) else Sweep(sweep), StopSwitch()
    root, make = results_of(chosen.spec, results), backend_maker(backend, workers, threads, address)
    with placed(chosen.path), reporter(silent=not progress) as report, stoppable(stop):
        ended = run_sweep(
            chosen.spec, root, make, on_progress=report.progress, on_localized=report.localized, stop=stop,
            max_failures=max_failures, retry=retry,
        )  # fmt: skip
    return Results(root, ended)


def results_of(spec: SweepSpec, given: str | Path | None) -> str:
    """Returns where the results of a sweep go: from the working directory on where its file does not say it.

    Args:
        spec: the sweep.
        given: what a person says of it; None takes what the sweep says.
    """
    return spec.results if given is None and spec.results else anchored(str(given or f"results/{safe_name(spec.name)}"))


@contextmanager
def placed(sweep: Path | Source | None) -> Iterator[None]:
    """Puts ``file:line:column`` before errors about a value of a sweep file; None has none."""
    try:
        yield
    except LocoError as error:
        if not error.loc or sweep is None:
            raise
        raise type(error)(f"{place(sweep, error.loc)}: {error}") from error


def outlook_of(spec: SweepSpec, root: str | None) -> Outlook:
    """Counts what remains; before a sweep has results it can be counted without weights, too.

    Args:
        spec: the sweep.
        root: results of earlier runs, if there may be any; None counts all.
    """
    from orchestrator.resolve.lookup import outline, resolve
    from orchestrator.runs.outlook import outlook

    try:
        return outlook(spec, resolve(spec), root)
    except ModelError as error:
        if root is not None and ("://" in root or Path(root).is_dir()):
            raise
        found = outlook(spec, outline(spec), None)
        print(f"weights are missing: {error}\nthe counts below are for the model as published", file=sys.stderr)
        return found
