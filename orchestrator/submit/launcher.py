"""A cluster of Ray's own launcher: started, and reached through a forwarded port."""

from __future__ import annotations

import itertools
import logging
import os
import random
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import yaml

from loco_core.errors import ClusterError, SpecError
from orchestrator.spec.cluster import WorkersSpec
from orchestrator.submit.jobs import last_line
from orchestrator.submit.secrets import Secrets, as_file

RAY = (sys.executable, "-m", "ray.scripts.scripts")
FORWARD_SECONDS = 120.0
FORWARD_TRIES = 3
logger = logging.getLogger(__name__)
OWN = (Path("/tmp"), Path("/var/tmp"), Path("~"))
"""Folders that are seldom the same on all nodes."""
LOOPBACK = "127.0.0.1"
PORTS = range(20_000, 32_768)
"""Above those of Ray's workers, and below those that Linux, macOS and Windows give to a process that asks for any."""


def check_launcher(path: Path, workers: WorkersSpec) -> None:
    """Refuses a launcher file that Ray would, or whose nodes cannot hold a worker.

    Args:
        path: path of the launcher file.
        workers: workers that have to fit.

    Raises:
        SpecError: with what is wrong.
    """
    try:
        config = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise SpecError(f"{path}: no such file; expected a file for Ray's cluster launcher") from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise SpecError(f"{path}: {str(error).splitlines()[0]}; expected a file for Ray's cluster launcher") from None
    from ray.autoscaler._private.util import prepare_config, validate_config

    # It tells every default that it fills in.
    logging.getLogger("ray.autoscaler").setLevel(logging.WARNING)
    try:
        validate_config(prepare_config(config))
    except Exception as error:
        # jsonschema's and Ray's own classes; all say what is wrong in their first line.
        raise SpecError(f"{path}: Ray's launcher refuses it: {str(error).splitlines()[0]}") from error
    for there, here in (config.get("file_mounts") or {}).items():
        if not Path(str(here)).expanduser().exists():
            hint = "; `ray get-auth-token --generate` writes it" if "auth_token" in str(here) else ""
            raise SpecError(f"{path}: file_mounts: this machine has no {here}, which nodes get as {there}{hint}")
    types = config.get("available_node_types") or {}
    stated = {name: node["resources"] for name, node in types.items() if node.get("resources")}
    # Node types may leave their resources to be found out from the machine.
    if types and len(stated) == len(types) and not any(_holds(found, workers) for found in stated.values()):
        raise SpecError(
            f"{path}: no node type holds a worker of {workers.gpus} GPUs and {workers.cpus} CPUs; there are "
            + "; ".join(
                f"{name}: {found.get('GPU', 0)} GPUs, {found.get('CPU', 0)} CPUs" for name, found in stated.items()
            )
        )


def check_results(results: str) -> None:
    """Warns of a folder that every node is likely to have for itself.

    Args:
        results: the folder, or an address.
    """
    path = Path(results)
    own = None if "://" in results else next((each for each in OWN if path.is_relative_to(each.expanduser())), None)
    if own is not None:
        logger.warning(
            "results: %s is below %s, of which each node may have its own; expected s3://bucket/folder, "
            "or a folder that every node mounts", results, own,
        )  # fmt: skip


def _holds(resources: dict[str, Any], workers: WorkersSpec) -> bool:
    return bool(resources.get("GPU", 0) >= workers.gpus and resources.get("CPU", 0) >= workers.cpus)


def up(path: Path) -> None:
    """Starts the cluster; Ray on a head that is up already is left running, and so are its jobs.

    Raises:
        ClusterError: Ray's launcher fails; it has said why on the terminal.
    """
    done = subprocess.run([*RAY, "up", "--yes", "--no-restart", str(path)], check=False)
    if done.returncode:
        raise ClusterError(f"`ray up {path}` failed (exit code {done.returncode}); see above")


def deliver(path: Path, secrets: Secrets, there: str) -> None:
    """Copies secrets to a file of mode 0600 on the head, over ssh; the driver removes it when it has read it.

    Args:
        path: path of the launcher file.
        secrets: secrets of the job.
        there: path of the file on the head.

    Raises:
        ClusterError: Ray's launcher fails.
    """
    try:
        with as_file(secrets) as file:
            _ray("rsync-up", str(path), str(file), there)
        if copy := _copy_outside(path, there):
            _ray(*copy)
    except BaseException:
        withdraw(path, there)
        raise


def withdraw(path: Path, there: str) -> None:
    """Removes secrets that no driver has read from the head; where that fails, a warning says where they are.

    Args:
        path: path of the launcher file.
        there: path of the file on the head, from its home folder on.
    """
    # The shell there knows the home folder.
    for words in (("exec", str(path), f"rm -f {there}"), _copy_outside(path, there)):
        try:
            if words:
                _ray(*words)
        except ClusterError as error:
            logger.warning("secrets of the job may still be on the head: %s; expected `%s` there", error, words[2])


def _copy_outside(path: Path, there: str) -> tuple[str, ...]:
    """Returns how the copy is removed that Ray leaves outside of a container, on the way into it."""
    config = yaml.safe_load(path.read_text(encoding="utf-8"))
    if not (config.get("docker") or {}).get("container_name"):
        return ()
    from ray.autoscaler.sdk import get_docker_host_mount_location

    copy = f"{get_docker_host_mount_location(config['cluster_name'])}/{there}"
    return ("exec", str(path), f"rm -f {shlex.quote(copy)}", "--run-env", "host")


def _ray(*words: str) -> None:
    done = subprocess.run(
        [*RAY, *words],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if done.returncode:
        raise ClusterError(
            f"`ray {words[0]} {words[1]}` failed: {last_line(done.stdout) or f'exit code {done.returncode}'}"
        )


@contextmanager
def forwarded(path: Path) -> Iterator[str]:
    """Yields the address of the cluster's dashboard, forwarded to a port of this machine for as long as it is needed.

    Raises:
        ClusterError: the cluster is not up.
    """
    with ExitStack() as stack:
        yield f"http://{LOOPBACK}:{_forward(path, stack)}"


def _forward(path: Path, stack: ExitStack) -> int:
    """Returns the port, forwarded until the stack is closed; another one is tried where a process has taken it first.

    ssh binds it itself, long after it was chosen.
    """
    for port in itertools.islice(_ports(), FORWARD_TRIES):
        process = stack.enter_context(_dashboard(path, port))
        try:
            _await(process, port, path)
        except ClusterError as error:
            if _is_free(port):
                raise
            taken = error
        else:
            return port
    raise taken


def _ports() -> Iterator[int]:
    """Yields ports that are free, and that no system gives to a process that asks for any."""
    while True:
        port = random.SystemRandom().choice(PORTS)
        if _is_free(port):
            yield port


def _is_free(port: int) -> bool:
    try:
        socket.create_server((LOOPBACK, port)).close()
    except OSError:
        return False
    return True


@contextmanager
def _dashboard(path: Path, port: int) -> Iterator[subprocess.Popen[str]]:
    """Runs what forwards the dashboard to a port, and ends it with the ssh that it started."""
    process = subprocess.Popen(
        [*RAY, "dashboard", str(path), "--port", str(port)], stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
    )  # fmt: skip
    try:
        yield process
    finally:
        # It may have ended, and ssh with it.
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        process.wait()


def _await(process: subprocess.Popen[str], port: int, path: Path) -> None:
    deadline = time.monotonic() + FORWARD_SECONDS
    while time.monotonic() < deadline:
        if process.poll() is not None:
            said = last_line(process.stdout.read() if process.stdout else "")
            raise ClusterError(
                f"{path}: the cluster's dashboard cannot be reached: {said or 'no word'}; "
                f"if its head runs without Ray, `ray up {path}` starts Ray anew"
            )
        try:
            socket.create_connection((LOOPBACK, port), timeout=1).close()
        except OSError:
            time.sleep(0.5)
        else:
            return
    raise ClusterError(f"{path}: the cluster's dashboard does not answer within {FORWARD_SECONDS:.0f} s; is it up?")


def down(path: Path) -> None:
    """Ends the cluster with all its nodes.

    Raises:
        ClusterError: Ray's launcher fails; it has said why on the terminal.
    """
    done = subprocess.run([*RAY, "down", "--yes", str(path)], check=False)
    if done.returncode:
        raise ClusterError(
            f"`ray down {path}` failed (exit code {done.returncode}); see above: its nodes may still cost money; "
            "the same command tries again"
        )
