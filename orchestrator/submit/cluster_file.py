"""Reads ``cluster.yaml`` with the sweep that it names, and checks what only both together show."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from loco_core import plugins
from loco_core.diffusion.single_files import is_single_file
from loco_core.errors import SpecError, did_you_mean
from orchestrator.resolve.lookup import check_names
from orchestrator.spec import ModelSpec, Source, SweepSpec, load_sweep, place
from orchestrator.spec.cluster import ClusterSpec, WorkersSpec
from orchestrator.spec.overrides import keys_of
from orchestrator.spec.plain_yaml import Loc
from orchestrator.spec.rayjob import RayJobSpec
from orchestrator.spec.slurm import SlurmSpec
from orchestrator.spec.yaml_file import load_yaml, written

_KEY = re.compile(r"[-._a-zA-Z0-9]{1,253}")


@dataclass(frozen=True)
class LoadedCluster:
    """A cluster file.

    Attributes:
        path: path of the file.
        spec: content of the file.
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


def load_cluster(path: str | Path, overrides: Sequence[str] = ()) -> LoadedCluster:
    """Reads a cluster file and its sweep.

    Args:
        path: path of the YAML file.
        overrides: values in place of those of the file (``workers.max=4``) or of its sweep (``seeds=16``), see
            `orchestrator.spec.overrides`.

    Raises:
        SpecError: one line per problem, with the place.
    """
    for word in overrides:
        _check_key(word)
    of_sweep = tuple(word for word in overrides if _is_of_sweep(word))
    own = tuple(word for word in overrides if word not in of_sweep)
    file = Source(Path(path), own)
    spec = load_yaml(file, ClusterSpec, "a cluster file")
    named = isinstance(spec.sweep, str)
    if not named and of_sweep:
        file = Source(file.path, (*own, *(f"sweep.{word}" for word in of_sweep)))
        spec = load_yaml(file, ClusterSpec, "a cluster file")
    sweep = _named_sweep(file, spec.sweep, of_sweep) if isinstance(spec.sweep, str) else spec.sweep
    # Who gives the file names the Python files in it.
    plugins.name(sweep.all_files)
    if sweep.results not in (None, spec.results):
        where = place(file, ("results",))
        raise SpecError(f"{where}: results: {spec.results!r} here and {sweep.results!r} in the sweep; expected one")
    sweep_file = Source(file.path.parent / str(spec.sweep), of_sweep) if named else file
    # A misspelled name is to show here, not when a node of the cluster has come up.
    try:
        check_names(sweep)
    except SpecError as error:
        keys = error.loc if named else ("sweep", *error.loc)
        raise SpecError(f"{place(sweep_file, keys)}: {error}") from error
    if spec.cluster.local is None:
        _check_reachable(file, spec, sweep, sweep_file)
        _check_code(sweep_file.path, _code(sweep), as_keys=spec.cluster.rayjob is not None)
    models = sweep.models if spec.cluster.local else tuple(_with_needs(file, m, spec.workers) for m in sweep.models)
    if spec.cluster.rayjob is not None:
        _check_rayjob(file, spec, spec.cluster.rayjob, models)
    if spec.cluster.slurm is not None:
        _check_slurm(file, spec.cluster.slurm, spec.workers, models)
    return LoadedCluster(file.path, spec, sweep.model_copy(update={"models": models, "results": spec.results}))


def _check_rayjob(file: Source, spec: ClusterSpec, job: RayJobSpec, models: Sequence[ModelSpec]) -> None:
    """Refuses what no pod could find: nodes with a type of GPU, and the folder of the results."""
    for model in models:
        for kind in model.worker.accelerators:
            if kind not in job.accelerators:
                raise SpecError(
                    f"{place(file, ('cluster', 'rayjob'))}: cluster.rayjob.accelerators: model {model.id} asks for "
                    f"{kind}; expected the labels of its nodes, such as {kind}: {{nvidia.com/gpu.product: ..}}"
                )
    if job.queue is not None and len({(model.worker.gpus, model.worker.accelerators) for model in models}) > 1:
        raise SpecError(
            f"{place(file, ('cluster', 'rayjob', 'queue'))}: cluster.rayjob.queue: models need different workers, and "
            "Kueue admits no RayJob that grows; expected one need for all, or no queue"
        )
    mounted = [*job.volumes, *([spec.cache.path] if spec.cache.path and spec.cache.claim else [])]
    if "://" not in spec.results and not any(Path(spec.results).is_relative_to(path) for path in mounted):
        raise SpecError(
            f"{place(file, ('results',))}: results: pods do not find {spec.results}; expected s3://bucket/folder, or a "
            "folder on a volume of cluster.rayjob.volumes"
        )


def _check_slurm(file: Source, asked: SlurmSpec, workers: WorkersSpec, models: Sequence[ModelSpec]) -> None:
    """Refuses nodes of Slurm that hold no worker: it would wait for ever."""
    model = max(models, key=lambda model: model.worker.gpus or 0)
    needed = model.worker.gpus or 0
    if asked.gpus_per_node is not None and asked.gpus_per_node < needed:
        key, problem = "gpus_per_node", f"{asked.gpus_per_node}; a worker of {model.id} needs {needed}"
    elif asked.cpus_per_node is not None and asked.cpus_per_node < workers.cpus:
        key, problem = "cpus_per_node", f"{asked.cpus_per_node}; a worker needs {workers.cpus}"
    elif (idle := _idle_nodes(asked, workers, needed)) > 0:
        key, jobs = ("nodes", asked.nodes) if asked.array is None else ("array", asked.array)
        problem = (
            f"{jobs}, of which workers.max: {workers.max} leaves {idle} idle; expected {jobs - idle}, or more workers"
        )
    else:
        return
    raise SpecError(f"{place(file, ('cluster', 'slurm', key))}: cluster.slurm.{key}: {problem}")


def _idle_nodes(asked: SlurmSpec, workers: WorkersSpec, gpus: int) -> int:
    """Returns how many nodes would be reserved for no worker."""
    if workers.max == "auto":
        return 0
    beside = (asked.gpus_per_node or gpus) // gpus if gpus else (asked.cpus_per_node or workers.cpus) // workers.cpus
    return (asked.array or asked.nodes) - -(-workers.max // beside)


def _check_key(word: str) -> None:
    """Refuses an override whose key neither a cluster file nor its sweep has."""
    first, known = keys_of(word)[0], {**SweepSpec.model_fields, **ClusterSpec.model_fields}
    if first not in known and first not in ClusterSpec.other_words:
        raise SpecError(f"{word}: unknown key {first!r}{did_you_mean(first, known)}")


def _is_of_sweep(word: str) -> bool:
    first = keys_of(word)[0]
    return first in SweepSpec.model_fields and first not in ClusterSpec.model_fields


def _named_sweep(file: Source, sweep: str, overrides: tuple[str, ...]) -> SweepSpec:
    try:
        return load_sweep(Source(Path(sweep), overrides))
    except SpecError as error:
        if Path(sweep).is_file():
            raise
        raise SpecError(f"{place(file, ('sweep',))}: sweep: {error}") from None


def _check_reachable(file: Source, spec: ClusterSpec, sweep: SweepSpec, sweep_file: Source) -> None:
    """Refuses paths that mean something on this machine only: those that were not written in full."""
    # From here on they are absolute: what was written stands in the file alone.
    results = written(file, ("results",))
    if results is not None and "://" not in results and not Path(results).is_absolute():
        raise SpecError(
            f"{place(file, ('results',))}: results: {results!r} is a relative path; expected an address such as "
            "s3://bucket/folder, or an absolute path that every node mounts"
        )
    named: list[tuple[Loc, str | None]] = [(("scorer",), sweep.scorer), (("evaluate", "floor"), sweep.evaluate.floor)]
    for number, model in enumerate(sweep.models):
        second = model.super_resolution
        named += [(("models", number, "path"), model.path)]
        named += [(("models", number, "config"), model.config)]
        named += [(("models", number, "super_resolution", "path"), None if second is None else second.path)]
        donor = model.donor
        named += [(("models", number, "donor", "path"), None if donor is None else donor.path)]
        named += [(("models", number, "donor", "config"), None if donor is None else donor.config)]
        others = enumerate(donor.loras if donor else ())
        named += [(("models", number, "donor", "loras", at, "path"), item.path) for at, item in others]
        named += [(("models", number, "loras", at, "path"), item.path) for at, item in enumerate(model.loras)]
        words = enumerate(model.textual_inversions)
        named += [(("models", number, "textual_inversions", at, "path"), item.path) for at, item in words]
    for loc, path in named:
        keys = loc if sweep_file != file else ("sweep", *loc)
        if path and Path(path).is_absolute() and not path.endswith(".py"):
            text = written(sweep_file, keys)
            if text is not None and not Path(text).is_absolute():
                name = ".".join(map(str, loc)).removesuffix(".path" if len(loc) > 3 else "")
                alone = len(loc) >= 5 or is_single_file(path)
                what, other = ("file", "an") if alone else ("folder", "a hub id, or an")
                raise SpecError(
                    f"{place(sweep_file, keys)}: {name}: {text!r} is a {what} of this machine; "
                    f"expected {other} absolute path that every node mounts"
                )


def _with_needs(file: Source, model: ModelSpec, workers: WorkersSpec) -> ModelSpec:
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
    return {name: Path(name) for name in sweep.all_files}


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
