"""Secrets of a job: taken from the environment of who submits it, never written where others read."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from loco_core.errors import ClusterError, SpecError
from loco_core.masking import SHORTEST, hide, hide_environment
from orchestrator.spec import Source, place
from orchestrator.submit.cluster_file import LoadedCluster


@dataclass(frozen=True)
class Secrets:
    """The secrets of a job.

    Attributes:
        values: their values by name. No repr, message, command line or manifest holds them.
    """

    values: Mapping[str, str] = field(repr=False)

    @property
    def names(self) -> tuple[str, ...]:
        """Their names, which are no secret."""
        return tuple(self.values)


def collect(cluster: LoadedCluster, environ: Mapping[str, str] = os.environ) -> Secrets:
    """Takes the secrets that a cluster file names; from now on this process masks their values.

    Args:
        cluster: the cluster file.
        environ: environment that holds them.

    Raises:
        SpecError: one is not set here, is no line of text, or too short to be masked.
    """
    for number, name in enumerate(cluster.spec.secrets):
        where = place(Source(cluster.path), ("secrets", number))
        if not environ.get(name):
            raise SpecError(f"{where}: secrets: {name} is not set here; expected it in the environment of this command")
        if not environ[name].isprintable():
            raise SpecError(f"{where}: secrets: the value of {name} is no line of text; expected one, without its end")
        if len(environ[name]) < SHORTEST:
            raise SpecError(
                f"{where}: secrets: the value of {name} is too short to be masked in logs and results; expected at "
                f"least {SHORTEST} letters"
            )
    found = Secrets({name: environ[name] for name in cluster.spec.secrets})
    hide(found.values.values())
    return found


def adopt_environment(cluster: LoadedCluster) -> None:
    """Gives this process the environment of a job, before the hub's client is imported, which reads it once."""
    os.environ.update(cluster.spec.environment)
    hide_environment()


@contextmanager
def as_file(secrets: Secrets) -> Iterator[Path]:
    """Writes secrets to a file that its owner alone can read, for as long as it takes to hand it on."""
    # Mode 0600 from the beginning.
    number, name = tempfile.mkstemp(prefix="loco-sweep-", suffix=".json")
    try:
        with os.fdopen(number, "w", encoding="utf-8") as file:
            json.dump(dict(secrets.values), file)
        yield Path(name)
    finally:
        Path(name).unlink(missing_ok=True)


def receive(path: Path) -> None:
    """Takes the secrets of a file into the environment of this process, and removes the file.

    Raises:
        ClusterError: there is no such file, or it holds something else.
    """
    try:
        values = json.loads(path.expanduser().read_text(encoding="utf-8"))
        path.expanduser().unlink()
    except (OSError, ValueError) as error:
        raise ClusterError(f"{path}: the secrets of the job cannot be read; `loco-sweep submit` sends them") from error
    os.environ.update(values)
    hide(values.values())
