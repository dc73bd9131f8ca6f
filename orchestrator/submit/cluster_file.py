"""Reads ``cluster.yaml`` with the sweep that it names, and checks what only both together show."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from loco_core import registry
from loco_core.errors import SpecError
from orchestrator.resolve import check_names
from orchestrator.spec import ModelSpec, SweepSpec, load_sweep, place
from orchestrator.spec.cluster import ClusterSpec, WorkersSpec
from orchestrator.spec.plain_yaml import Loc
from orchestrator.spec.yaml_file import load_yaml, written

_KEY = re.compile(r"[-._a-zA-Z0-9]{1,253}")


@dataclass(frozen=True)
class LoadedCluster:
    """A cluster file.

    Attributes:
        path: of the file.
        spec: what it says.
        sweep: its sweep, with the workers' needs where its models do not say their own.
    """

    path: Path
    spec: ClusterSpec
    sweep: SweepSpec

    @property
    def key(self) -> str:
        """Tells its jobs from those of another sweep of the same name: a hash of the name and the results."""
        return hashlib.sha256(f"{self.spec.name}\n{self.spec.results}".encode()).hexdigest()[:12]

    @property
    def code(self) -> dict[str, Path]:
        """The user's own Python files that the sweep names, by what it calls them; they travel with the job."""
        return _code(self.sweep)

    @property
    def gpus(self) -> int:
        """GPUs that a node must have for the largest of its workers."""
        return max(model.worker.gpus or 0 for model in self.sweep.models)


def load_cluster(path: str | Path) -> LoadedCluster:
    """Reads a cluster file and its sweep.

    Args:
        path: of the YAML file.

    Raises:
        SpecError: one line a problem, with the place.
    """
    file = Path(path)
    spec = load_yaml(file, ClusterSpec, "a cluster file")
    named = isinstance(spec.sweep, str)
    sweep = _named_sweep(file, spec.sweep) if isinstance(spec.sweep, str) else spec.sweep
    # Who gives the file names the Python files in it.
    registry.name(sweep.files)
    if sweep.results not in (None, spec.results):
        where = place(file, ("results",))
        raise SpecError(f"{where}: results: {spec.results!r} here and {sweep.results!r} in the sweep; expected one")
    if spec.cluster.local is None:
        sweep_file = file.parent / str(spec.sweep) if named else file
        _check_reachable(file, spec, sweep, sweep_file)
        # A misspelled name is to show here, not when a node of the cluster has come up.
        try:
            check_names(sweep)
        except SpecError as error:
            keys = error.loc if named else ("sweep", *error.loc)
            raise SpecError(f"{place(sweep_file, keys)}: {error}") from error
        _check_code(sweep_file, _code(sweep), as_keys=spec.cluster.rayjob is not None)
    models = sweep.models if spec.cluster.local else tuple(_with_needs(file, m, spec.workers) for m in sweep.models)
    return LoadedCluster(file, spec, sweep.model_copy(update={"models": models, "results": spec.results}))


def _named_sweep(file: Path, sweep: str) -> SweepSpec:
    try:
        return load_sweep(sweep)
    except SpecError as error:
        if Path(sweep).is_file():
            raise
        raise SpecError(f"{place(file, ('sweep',))}: sweep: {error}") from None


def _check_reachable(file: Path, spec: ClusterSpec, sweep: SweepSpec, sweep_file: Path) -> None:
    """Refuses paths that mean something on this machine only: those that were not written in full."""
    # From here on they are absolute: what was written stands in the file alone.
    results = written(file, ("results",))
    if results is not None and "://" not in results and not Path(results).is_absolute():
        raise SpecError(
            f"{place(file, ('results',))}: results: {results!r} is a relative path; expected an s3:// address, or "
            "an absolute path that every node mounts"
        )
    named: list[tuple[Loc, str | None]] = [(("scorer",), sweep.scorer)]
    for number, model in enumerate(sweep.models):
        second = model.super_resolution
        named += [(("models", number, "path"), model.path)]
        named += [(("models", number, "super_resolution", "path"), None if second is None else second.path)]
    for loc, path in named:
        keys = loc if sweep_file != file else ("sweep", *loc)
        if path and Path(path).is_absolute() and not path.endswith(".py"):
            text = written(sweep_file, keys)
            if text is not None and not Path(text).is_absolute():
                name = ".".join(map(str, loc)).removesuffix(".path" if "super_resolution" in loc else "")
                raise SpecError(
                    f"{place(sweep_file, keys)}: {name}: {text!r} is a folder of this machine; "
                    "expected a hub id, or an absolute path that every node mounts"
                )


def _with_needs(file: Path, model: ModelSpec, workers: WorkersSpec) -> ModelSpec:
    needs = model.worker
    filled = needs.model_copy(
        update={
            "gpus": workers.gpus if needs.gpus is None else needs.gpus,
            "label_selector": needs.label_selector or workers.label_selector,
        }
    )
    try:
        # Anew, as its rules are about what its worker has.
        return ModelSpec.model_validate({**dict(model), "worker": filled})
    except ValidationError as error:
        where, (problem, *_) = place(file, ("workers", "gpus")), error.errors()
        raise SpecError(f"{where}: workers.gpus: {workers.gpus}, with model {model.id}: {problem['msg']}") from None


def _code(sweep: SweepSpec) -> dict[str, Path]:
    return {name: Path(name) for name in sweep.files}


def _check_code(sweep_file: Path, code: dict[str, Path], *, as_keys: bool) -> None:
    """Refuses files that would overwrite each other where the job finds them, or that a ConfigMap cannot hold."""
    names = [path.name for path in code.values()]
    for name in names:
        if as_keys and not _KEY.fullmatch(name):
            raise SpecError(
                f"{sweep_file}: a RayJob's ConfigMap holds no file named {name!r}; expected letters of English, "
                "digits, -, _ and ., at most 253"
            )
        if names.count(name) > 1:
            raise SpecError(
                f"{sweep_file}: two files are named {name}, and the job finds both in one folder; rename one"
            )
