"""Jobs on a running cluster, over the Jobs API of its dashboard."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import aiohttp
from tenacity import retry, retry_if_exception_message, retry_if_exception_type, stop_after_delay, wait_fixed

from loco_core.errors import ClusterError, did_you_mean, wants_token
from orchestrator.identity import safe_name
from orchestrator.submit.bundle import Bundle, runtime_env
from orchestrator.submit.cluster_file import LoadedCluster

if TYPE_CHECKING:
    import requests
    from ray.job_submission import JobSubmissionClient

State = Literal["PENDING", "RUNNING", "STOPPED", "SUCCEEDED", "FAILED"]
OVER: tuple[State, ...] = ("STOPPED", "SUCCEEDED", "FAILED")
STOPPED = 4
"""Exit code of a driver that was stopped, or has used up its budget."""
FINAL_CODES = (0, 1, 2, 3)
"""Exit codes of a driver that said its last word; any other means that it died, or was stopped."""
ADDRESS_VARIABLES = ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS")
KEY = "loco_sweep"
CHATTY = ("ray.dashboard.modules.dashboard_sdk", "ray.dashboard.modules.job.sdk", "ray._private.runtime_env.packaging")
POLL_SECONDS = 1.0
logger = logging.getLogger(__name__)
MOST_NODES = 10_000
"""Nodes whose logs are looked through; what Ray lists at most."""
NOT_YET = "No available agent"
"""What the dashboard of a cluster says whose head is up for a few seconds only."""
START_SECONDS = 60.0
PENDING_SECONDS = 600.0
"""How long a question to a cluster may wait for its beginning: its packages may have to be installed first."""
TOKEN_FILE = Path("~/.ray/auth_token")
"""Where Ray looks for a token that the environment does not name."""


@dataclass(frozen=True)
class Job:
    """One submission of a sweep.

    Attributes:
        job_id: ``NAME.N``, N counting the attempts.
        state: Ray's word.
        message: Ray's sentence about it.
        exit_code: exit code of the driver, once it is over.
        ray_id: what Ray calls the job in the names of its workers' logs; None before its driver is connected.
    """

    job_id: str
    state: State
    message: str
    exit_code: int | None
    ray_id: str | None = None

    @property
    def over(self) -> bool:
        """Whether it has ended."""
        return self.state in OVER

    @property
    def died(self) -> bool:
        """Whether the driver ended without a last word, so that another attempt makes sense."""
        environment = self.message.startswith("runtime_env setup failed")
        return self.state == "FAILED" and self.exit_code not in FINAL_CODES and not environment


class Jobs:
    """The jobs of one sweep on one cluster."""

    def __init__(self, client: JobSubmissionClient, cluster: LoadedCluster, address: str) -> None:
        """Takes a client that is connected.

        Args:
            client: Ray's.
            cluster: the cluster file.
            address: address for messages.
        """
        self._client, self._address = client, address
        # Sweeps of one name with different results are different ones.
        self._name = f"{safe_name(cluster.spec.name)[:60]}-{cluster.key}"

    def listed(self) -> list[Job]:
        """Returns the jobs of this sweep, the oldest first."""
        with _clean(self._address):
            found = [job for job in self._client.list_jobs() if (job.metadata or {}).get(KEY) == self._name]
        jobs = [
            Job(job.submission_id, str(job.status.value), job.message or "", job.driver_exit_code, job.job_id)  # type: ignore[arg-type]
            for job in found if job.submission_id
        ]  # fmt: skip
        return sorted(jobs, key=lambda job: _attempt(job.job_id))

    def latest(self) -> Job:
        """Returns the newest job.

        Raises:
            ClusterError: there is none.
        """
        jobs = self.listed()
        if not jobs:
            raise ClusterError(f"{self._address} has no job of {self._name}; `loco-sweep submit` makes one")
        return jobs[-1]

    def next_attempt(self) -> int:
        """Returns the number of the next attempt.

        Raises:
            ClusterError: an attempt is at work.
        """
        jobs = self.listed()
        running = [job for job in jobs if not job.over]
        if running:
            raise ClusterError(
                f"{running[0].job_id} is {running[0].state.lower()} on {self._address}; `loco-sweep logs` follows it, "
                "`loco-sweep cancel` stops it"
            )
        return _attempt(jobs[-1].job_id) + 1 if jobs else 1

    def submit(self, cluster: LoadedCluster, files: Bundle) -> Job:
        """Submits the next attempt, unless one is at work.

        Raises:
            ClusterError: the cluster refuses it, or an attempt is at work.
        """
        job = {
            "entrypoint": files.entrypoint,
            "submission_id": f"{self._name}.{self.next_attempt()}",
            "runtime_env": {"working_dir": str(files.folder), **runtime_env(cluster)},
            "metadata": {KEY: self._name, "results": cluster.spec.results},
        }
        with _clean(self._address):
            return self.one(self._submitted(job))

    @retry(
        retry=retry_if_exception_message(match=f".*{NOT_YET}.*"), wait=wait_fixed(POLL_SECONDS),
        stop=stop_after_delay(START_SECONDS), reraise=True,
    )  # fmt: skip
    def _submitted(self, job: dict[str, Any]) -> str:
        return str(self._client.submit_job(**job))

    def ask(self, entrypoint: str, folder: Path, cluster: LoadedCluster) -> str:
        """Runs a command on the cluster that is no job of the sweep, to its end; returns what it printed.

        Args:
            entrypoint: the command.
            folder: its working directory.
            cluster: the cluster file.

        Raises:
            ClusterError: the cluster refuses it, or it fails.
        """
        job = {
            "entrypoint": entrypoint,
            "runtime_env": {"working_dir": str(folder), **runtime_env(cluster)},
            "metadata": {KEY: f"{self._name}-question"},
        }
        with _clean(self._address):
            job_id = self._submitted(job)
            deadline = time.monotonic() + PENDING_SECONDS
            while (status := str(self._client.get_job_status(job_id).value)) not in OVER:
                if status == "PENDING" and time.monotonic() > deadline:
                    self._client.stop_job(job_id)
                    raise ClusterError(
                        f"{self._address}: `{entrypoint}` has not begun within {PENDING_SECONDS:.0f} s; expected a "
                        "head that starts jobs (`ray job list` there says what it is at)"
                    )
                time.sleep(POLL_SECONDS)
            printed = str(self._client.get_job_logs(job_id))
        if status != "SUCCEEDED":
            said = last_line(printed) or "it printed nothing"
            raise ClusterError(f"{self._address}: `{entrypoint}` is {status.lower()}: {said}")
        return printed

    def one(self, job_id: str) -> Job:
        """Returns a job as it is now.

        Raises:
            ClusterError: there is none of that name.
        """
        jobs = {job.job_id: job for job in self.listed()}
        if job_id not in jobs:
            raise ClusterError(f'{self._address} has no job "{job_id}"{did_you_mean(job_id, jobs)}')
        return jobs[job_id]

    def cancel(self) -> Job:
        """Stops what is at work; what is committed stays.

        Raises:
            ClusterError: nothing is at work.
        """
        job = self.latest()
        if job.over:
            raise ClusterError(f"{job.job_id} is over ({job.state.lower()}); there is nothing to cancel")
        with _clean(self._address):
            self._client.stop_job(job.job_id)
        while not (job := self.one(job.job_id)).over:
            time.sleep(POLL_SECONDS)
        return job

    @retry(
        retry=retry_if_exception_type(ClusterError), wait=wait_fixed(POLL_SECONDS),
        stop=stop_after_delay(START_SECONDS), reraise=True,
    )  # fmt: skip
    def _patiently(self, job_id: str) -> Job:
        return self.one(job_id)

    def logs(self, job_id: str) -> str:
        """Returns what a job has printed so far."""
        with _clean(self._address):
            return str(self._client.get_job_logs(job_id))

    def worker_lines(self, unit: str | None = None) -> Iterator[str]:
        """Yields what workers of this sweep have logged on nodes that are up, one JSON object per line.

        Args:
            unit: the id of a unit, or its beginning: only lines about it, of all attempts at the sweep. None is all
                lines of the newest job.

        Raises:
            ClusterError: nothing was logged.
        """
        import requests
        from ray.util.state import list_nodes

        jobs = [self.latest()] if unit is None else self.listed()
        kept = False
        with _clean(self._address):
            nodes = [node.node_id for node in list_nodes(self._address, limit=MOST_NODES) if node.state == "ALIVE"]
            for job in (job for job in jobs if job.ray_id):
                for node in nodes:
                    try:
                        for line in self._lines_of(node, str(job.ray_id)):
                            if is_about(line, unit):
                                kept = True
                                yield line
                    except (requests.exceptions.HTTPError, requests.exceptions.Timeout) as error:
                        # It may have gone in the meantime.
                        logger.warning("node %s does not give its logs: %s", node, _why(error))
        if not kept:
            what = "its workers have logged nothing" if unit is None else f"nothing was logged of unit {unit}"
            raise ClusterError(
                f"{self._address}: {what} on nodes that are up; workers log when a unit ends, and `loco-sweep status` "
                "says why cells failed"
            )

    def _lines_of(self, node: str, job: str) -> Iterator[str]:
        # "worker-ID-JOB-PID.err"
        found = self._asked("logs", node_id=node, glob=f"worker-*-{job}-*.err").json()
        groups = (found["data"] or {}).get("result") or {}
        for name in sorted(name for group in groups.values() for name in group):
            log = self._asked("logs/file", node_id=node, filename=name, lines=-1)
            yield from log.content.decode(errors="replace").splitlines()

    def _asked(self, what: str, **options: str | int) -> requests.Response:
        """Asks the dashboard for what Ray's own functions ask it for only where its other ports are reachable too."""
        answer: requests.Response = self._client._do_request("GET", f"/api/v0/{what}", params=options)
        answer.raise_for_status()
        return answer

    def follow(self, job_id: str) -> Iterator[str]:
        """Yields what a job prints, until it is over; comes back where the connection breaks."""
        printed = 0
        while True:
            loop = asyncio.new_event_loop()
            stream, seen = self._client.tail_job_logs(job_id), 0
            try:
                while True:
                    text: str = loop.run_until_complete(anext(stream))
                    # A new connection begins at the beginning.
                    yield from _unseen(text, seen, printed)
                    seen += len(text)
                    printed = max(printed, seen)
            except (StopAsyncIteration, RuntimeError, OSError, aiohttp.ClientError):
                # The end, or the connection broke: whether the job is over tells.
                pass
            finally:
                loop.close()
            if self._patiently(job_id).over:
                yield from _unseen(self.logs(job_id), 0, printed)
                return
            time.sleep(POLL_SECONDS)


def is_about(line: str, unit: str | None) -> bool:
    """Tells whether a line of a worker's log is a record, and about a unit if one is named; Ray writes others there."""
    try:
        record = json.loads(line)
    except ValueError:
        return False
    return isinstance(record, dict) and str(record.get("unit_id", "")).startswith(unit or "")


def _unseen(text: str, seen: int, printed: int) -> Iterator[str]:
    new = text[max(0, printed - seen) :]
    if new:
        yield new


def authenticate() -> None:
    """Lets Ray use the token of the environment or of its own file; to be called before Ray is imported."""
    named = {"RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"} & set(os.environ)
    if "RAY_AUTH_MODE" not in os.environ and (named or TOKEN_FILE.expanduser().is_file()):
        os.environ["RAY_AUTH_MODE"] = "token"


def connect(cluster: LoadedCluster, address: str) -> Jobs:
    """Connects to the dashboard of a cluster.

    Args:
        cluster: the cluster file.
        address: ``http://HEAD:8265``.

    Raises:
        ClusterError: nothing answers there, or it wants a token.
    """
    # Ray lets these win over the address that it is given.
    hidden = {name: os.environ.pop(name) for name in ADDRESS_VARIABLES if name in os.environ}
    try:
        authenticate()
        from ray.job_submission import JobSubmissionClient

        for name in CHATTY:
            logging.getLogger(name).setLevel(logging.WARNING)
        with _clean(address):
            return Jobs(JobSubmissionClient(address), cluster, address)
    finally:
        os.environ.update(hidden)


@contextmanager
def _clean(address: str) -> Iterator[None]:
    """Turns what Ray raises into one line that says what to do."""
    import requests
    from ray.exceptions import AuthenticationError
    from ray.util.state.exception import RayStateApiException

    try:
        yield
    except AuthenticationError as error:
        raise ClusterError(wants_token(address)) from error
    except (ConnectionError, requests.exceptions.RequestException) as error:
        raise ClusterError(
            f"no Ray dashboard answers at {address}; expected the address that `ray start --head` prints, such as "
            "http://HEAD:8265, reachable from here"
        ) from error
    except (RuntimeError, ValueError, RayStateApiException) as error:
        why = _why(error)
        if NOT_YET in why:
            why = (
                "its head runs no job agent; dashboard_agent.log on the head says why (of two Rays on one machine the "
                "second needs a --dashboard-agent-listen-port of its own)"
            )
        raise ClusterError(f"{address}: {why}") from error


def last_line(text: str) -> str:
    """Returns the last line of a text that says anything; empty where none does."""
    return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "")


def _why(error: Exception) -> str:
    return last_line(str(error)) or type(error).__name__


def _attempt(job_id: str) -> int:
    number = job_id.rpartition(".")[2]
    return int(number) if number.isdecimal() else 0


def exit_code(job: Job) -> int:
    """Returns the code that a command about a job exits with: the driver's own, 4 where it was stopped, else 1."""
    if job.state == "SUCCEEDED":
        return 0
    if job.state == "STOPPED":
        return STOPPED
    return job.exit_code if job.exit_code in (*FINAL_CODES[1:], STOPPED) else 1
