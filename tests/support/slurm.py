"""A real Slurm on this machine: one controller, and two nodes with two GPUs each that no driver has to be there for."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.support.clusters import START_SECONDS, environment, started
from tests.support.ports import free_ports

CONFIG = """\
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller}
SlurmUser=root
AuthType=auth/none
CredType=cred/none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SlurmdParameters=config_overrides
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/controller.pid
SlurmdPidFile={folder}/%n.pid
SlurmctldLogFile={folder}/controller.log
SlurmdLogFile={folder}/%n.log
MailProg=/bin/true
JobCompType=jobcomp/filetxt
JobCompLoc={folder}/jobs
MpiDefault=none
ReturnToService=2
SlurmdTimeout=15
KillWait=10
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerParameters=batch_sched_delay=0,sched_interval=2,bf_interval=2
GresTypes=gpu
NodeName=n[1-2] NodeHostname={host} NodeAddr=127.0.0.1 Port=[{first}-{second}] CPUs=4 RealMemory=1000 Gres=gpu:2
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""
# Files that are there on every machine.
GPUS = "NodeName=n[1-2] Name=gpu File=/dev/null,/dev/zero\n"


def why_not() -> str | None:
    """Returns why this machine cannot run a Slurm; None where it can."""
    if os.geteuid() != 0:
        return "a Slurm of one's own needs root"
    if not all(shutil.which(name) for name in ("slurmctld", "slurmd", "sbatch")):
        return "Slurm is not installed; Debian: apt-get install slurm-wlm"
    addresses = subprocess.run(["hostname", "-I"], capture_output=True, text=True, check=False).stdout.split()
    return None if addresses else "Slurm needs a network interface besides the loopback one"


@dataclass(frozen=True)
class Slurm:
    """A Slurm that is up.

    Attributes:
        folder: folder of its configuration, state and logs.
        environment: in which commands reach it.
    """

    folder: Path
    environment: dict[str, str]

    def call(self, *words: str) -> str:
        """Runs one of its commands; returns what it prints."""
        return subprocess.run(
            words, env=self.environment, capture_output=True, text=True, check=True, timeout=180
        ).stdout.strip()

    def states(self) -> list[str]:
        """Returns the states of its jobs, name and state of each."""
        return self.call("squeue", "--noheader", "--states=all", "--format=%j %T").splitlines()

    def history(self, job: str) -> list[str]:
        """Returns the states in which a job ended, one per time that it was started."""
        lines = (self.folder / "jobs").read_text().splitlines()
        pairs = [dict(word.split("=", 1) for word in line.split() if "=" in word) for line in lines]
        return [pair["JobState"] for pair in pairs if pair["JobId"] == job]

    def kill(self, name: str) -> None:
        """Kills a node where it stands, with all that runs on it."""
        for process, _ in self._processes(f"SLURMD_NODENAME={name}"):
            os.kill(process, signal.SIGKILL)
        os.kill(int((self.folder / f"{name}.pid").read_text()), signal.SIGKILL)

    def has_ended(self, job: str) -> bool:
        """Whether a start of a job has said how it ended: a later start would be taken for it."""
        return not any(words.startswith(f"slurmstepd: [{job}.") for _, words in self._processes())

    def _processes(self, *variables: str) -> Iterator[tuple[int, str]]:
        """Yields number and command of each process of this Slurm that has variables in its environment."""
        wanted = {variable.encode() for variable in (f"SLURM_CONF={self.folder}/slurm.conf", *variables)}
        for path in Path("/proc").glob("[0-9]*"):
            try:
                found, words = ((path / name).read_bytes() for name in ("environ", "cmdline"))
            except OSError:
                # It has ended meanwhile.
                continue
            if wanted <= set(found.split(b"\0")):
                yield int(path.name), words.decode(errors="replace")

    @contextmanager
    def node(self, name: str) -> Iterator[subprocess.Popen[bytes]]:
        """Runs the daemon of a node, until it has said that it is up and on."""
        words, log = ["slurmd", "-D", "-N", name], self.folder / f"{name}.out"
        with started(words, self.environment, log) as process:
            deadline = time.monotonic() + START_SECONDS
            while self.call("sinfo", "--noheader", f"--nodes={name}", "--format=%T").rstrip("*") not in (
                "idle",
                "mixed",
            ):
                assert process.poll() is None, log.read_text()
                assert time.monotonic() < deadline, log.read_text()
                time.sleep(0.2)
            yield process


@contextmanager
def slurm(folder: Path) -> Iterator[Slurm]:
    """Starts the controller.

    Args:
        folder: scratch folder, also the home of its jobs.
    """
    # Slurm wants a range for the nodes.
    controller, first, second = free_ports(3)
    config = folder / "slurm.conf"
    (folder / "state").mkdir()
    for name in ("n1", "n2"):
        (folder / f"spool-{name}").mkdir()
    config.write_text(
        CONFIG.format(host=socket.gethostname(), folder=folder, controller=controller, first=first, second=second)
    )
    (folder / "gres.conf").write_text(GPUS)
    env = environment(folder, SLURM_CONF=str(config))
    # Jobs get tokens of their own.
    del env["RAY_AUTH_TOKEN"]
    found = Slurm(folder, env)
    with ExitStack() as stack:
        process = stack.enter_context(started(["slurmctld", "-D"], env, folder / "controller.out"))
        deadline = time.monotonic() + START_SECONDS
        while subprocess.run(["scontrol", "ping"], env=env, capture_output=True, check=False).returncode:
            assert process.poll() is None, (folder / "controller.out").read_text()
            assert time.monotonic() < deadline
            time.sleep(0.2)
        try:
            yield found
        finally:
            subprocess.run(["scancel", "--user=root"], env=env, capture_output=True, check=False)
            while any(line.split()[-1] not in ENDED for line in found.states()) and time.monotonic() < deadline + 60:
                time.sleep(0.5)


ENDED = ("CANCELLED", "COMPLETED", "FAILED", "TIMEOUT", "NODE_FAIL", "PREEMPTED")
