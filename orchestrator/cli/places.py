"""What a command is called with where results are expected: a folder, an address, or a file that names them."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from loco_core.errors import LocoError, SpecError

if TYPE_CHECKING:
    from orchestrator.spec import Source, SweepSpec
    from orchestrator.submit import LoadedCluster

FileKind = Literal["sweep", "cluster"]


@dataclass(frozen=True)
class Named:
    """Results, and how they were named.

    Attributes:
        results: the results root, absolute.
        cluster: the cluster file that names them, if one does.
        resume: the command that goes on with them.
    """

    results: str
    cluster: LoadedCluster | None
    resume: str


def at_home(path: Path) -> Path:
    """Returns a path of the command line; the shell leaves the ``~`` of ``--option=~/x`` to its program."""
    from orchestrator.spec.places import anchored

    return Path(anchored(str(path))) if str(path).startswith("~") else path


def is_file(results: str) -> bool:
    """Tells whether a sweep file or a cluster file stands in place of the results that it names."""
    return results.endswith((".yaml", ".yml")) and not Path(results).is_dir()


def kind_of(path: str | Path, what: str = "a sweep file or a cluster file") -> FileKind:
    """Tells a cluster file from a sweep file by their keys.

    Args:
        path: path of the file.
        what: what is expected, for errors.

    Raises:
        SpecError: it cannot be read.
    """
    from orchestrator.spec import ClusterSpec, SweepSpec
    from orchestrator.spec.plain_yaml import read

    keys = {str(key.value) for key, _ in read(Path(path), what, "name").root.value}
    cluster, sweep = (len(keys & spec.model_fields.keys()) for spec in (ClusterSpec, SweepSpec))
    return "cluster" if "cluster" in keys or cluster > sweep else "sweep"


def named(results: str) -> Named:
    """Returns the results that an argument names, from the working directory on.

    Raises:
        SpecError: it is a file, and is none of a sweep or a cluster.
    """
    from orchestrator.spec.places import anchored

    if not is_file(results):
        return Named(anchored(results), None, f"loco-sweep run {results}")
    if kind_of(results) == "cluster":
        from orchestrator.submit import load_cluster

        cluster = load_cluster(results)
        return _begun(results, Named(cluster.spec.results, cluster, f"loco-sweep submit {results}"))
    from orchestrator.face.sweep import results_of
    from orchestrator.spec import load_sweep

    return _begun(results, Named(results_of(load_sweep(results), None), None, f"loco-sweep run {results}"))


def _begun(file: str, place: Named) -> Named:
    if "://" not in place.results and not Path(place.results).is_dir():
        raise SpecError(f"{file}: nothing has run yet, {place.results} is not there; `{place.resume}` begins")
    return place


def is_results(text: str) -> bool:
    """Tells whether a results root stands in place of a sweep file."""
    return "://" in text or at_home(Path(text)).is_dir()


def stored_sweep(root: str) -> SweepSpec:
    """Returns the sweep that results are of.

    Raises:
        StoreError: they are of none.
    """
    from loco_core.errors import StoreError
    from orchestrator.store import open_store

    spec = open_store(root, create=False).sweep()
    if spec is None:
        raise StoreError(f"{root}: holds no sweep")
    return spec


def source_of(sweep: str | Path, overrides: Sequence[str] | None) -> Source:
    """Returns a sweep file with what the command line says otherwise; ``-`` is the standard input.

    Raises:
        SpecError: it is a cluster file.
    """
    from orchestrator.spec import Source

    words, sweep = tuple(overrides or ()), at_home(Path(sweep))
    if str(sweep) == "-":
        return Source(Path("<stdin>"), words, sys.stdin.read())
    if sweep.is_file() and kind_of(sweep) == "cluster":
        raise SpecError(
            f"{sweep}: this is a cluster file; expected a sweep file (`loco-sweep submit {sweep}` runs its sweep there)"
        )
    return Source(sweep, words)


def cluster_of(path: Path, overrides: Sequence[str] | None) -> LoadedCluster | None:
    """Returns what a cluster file says; None of a sweep file.

    Raises:
        SpecError: as of `orchestrator.submit.load_cluster`.
    """
    if str(path) == "-" or not path.is_file() or kind_of(path) != "cluster":
        return None
    from orchestrator.submit import load_cluster

    return load_cluster(path, overrides or ())


def sweep_of(path: Path, overrides: Sequence[str] | None) -> tuple[SweepSpec, Source | None]:
    """Returns the sweep of a sweep file or a cluster file, and the file that errors about it point into, if it has one.

    Raises:
        SpecError: as of `orchestrator.spec.load_sweep` and `orchestrator.submit.load_cluster`.
    """
    from orchestrator.spec import load_sweep

    if (cluster := cluster_of(path, overrides)) is not None:
        return cluster.sweep, None
    source = source_of(path, overrides)
    return load_sweep(source), source


def results_root(results: str) -> str:
    """Returns the results that an argument names, as the callback of an argument."""
    return named(results).results


def cluster_file(path: Path) -> Path:
    """Refuses a sweep file where a cluster file is expected, and names a cluster file that takes it.

    Raises:
        SpecError: it is one.
    """
    path = at_home(path)
    if kind_of(path, "a cluster file") == "cluster":
        return path
    fitting = next(_clusters_of(path), None)
    how = f"`loco-sweep submit {fitting}` submits it" if fitting else "`loco-sweep init KIND` writes one"
    raise SpecError(
        f"{path}: this is a sweep file; expected a cluster file, which names a sweep and where it runs ({how}; "
        f"`loco-sweep run {path}` runs the sweep on this machine)"
    )


def _clusters_of(sweep: Path) -> Iterator[Path]:
    """Yields the cluster files in the folder of a sweep file that name it."""
    from orchestrator.spec.plain_yaml import read
    from orchestrator.submit import load_cluster

    for path in sorted(sweep.absolute().parent.glob("*.y*ml")):
        try:
            values = {key.value: value.value for key, value in read(path, "a file", "name").root.value}
        except SpecError:
            continue
        of = values.get("sweep")
        if "cluster" in values and isinstance(of, str) and (path.parent / of).resolve() == sweep.resolve():
            with suppress(LocoError):
                load_cluster(path)
                yield path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
