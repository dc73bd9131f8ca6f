"""The model behind ``cluster: {slurm: ..}``: what the jobs of a sweep ask Slurm for."""

from __future__ import annotations

import re
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, model_validator
from pydantic_core import PydanticCustomError

from orchestrator.spec.model import Memory
from orchestrator.spec.rules import Strict, Text, problem, spelled

_TIME = spelled(
    r"^(\d+-\d{1,2}(:\d{1,2}){0,2}|\d+(:\d{1,2}){0,2})$",
    "hours:minutes:seconds, such as 4:00:00, or days-hours, such as 7-00",
    longest=40,
)
"""As sbatch takes it: minutes, minutes:seconds, hours:minutes:seconds, days-hours[:minutes[:seconds]]."""
_MIB = 2**20
Count = Annotated[int, Field(ge=1, le=100_000)]
Option = Annotated[
    str, spelled(r"^-[^\x00-\x1f\x7f]+$", "an option of sbatch, such as --constraint=a100", longest=2000)
]


def _text(value: Any) -> Any:
    if isinstance(value, int | float):
        raise PydanticCustomError("rule", f'{value} of which unit? expected hours:minutes:seconds, such as "24:00:00"')
    return value


def _size(value: Any) -> Any:
    """Takes the suffixes of sbatch: its 64G is 64GiB."""
    return re.sub(r"(?<=[kmgtKMGT])\s*$", "iB", value) if isinstance(value, str) else value


Time = Annotated[str, _TIME, BeforeValidator(_text, json_schema_input_type=str)]
NodeMemory = Annotated[Memory, BeforeValidator(_size)]


def seconds_of(time: str) -> int:
    """Returns the seconds of a time limit, as sbatch reads it; 0 is no limit."""
    days, _, rest = time.rpartition("-")
    parts = [int(part) for part in rest.split(":")]
    if not days and len(parts) < 3:
        parts = [0, *parts]
    hours, minutes, seconds = [*parts, 0, 0][:3]
    return ((int(days or 0) * 24 + hours) * 60 + minutes) * 60 + seconds


class SlurmSpec(Strict):
    """Jobs of Slurm; `submit` calls sbatch, on a login node."""

    partition: Text | None = Field(None, description="Partition. Default: the cluster's.", examples=["gpu"])
    account: Text | None = Field(None, description="Account to be charged. Default: yours.", examples=["my-group"])
    qos: Text | None = Field(None, description="Quality of service. Default: the cluster's.", examples=["preemptible"])
    time: Time | None = Field(
        None,
        description="Time limit of a job. A job that reaches it is queued again, until the sweep is done. "
        "Default: the partition's.",
        examples=["24:00:00"],
    )
    nodes: Count = Field(1, description="Nodes of the job, all at once. With `array`, each job has one.", examples=[4])
    gpus_per_node: Annotated[int, Field(ge=0, le=64)] | None = Field(
        None, description="GPUs per node. Default: what one worker needs.", examples=[4]
    )
    cpus_per_node: Count | None = Field(
        None, description="CPU cores per node. Default: what the workers of a node need.", examples=[32]
    )
    memory_per_node: NodeMemory | None = Field(
        None,
        description="Memory per node, with a unit; 64G is 64GiB, as for sbatch, and 0 all that a node has. Default: "
        "the cluster's.",
        examples=["64G"],
    )
    array: Count | None = Field(
        None,
        description="So many jobs of one node in place of one job of several: each joins as it gets a place, leaves at "
        "its time limit, and is queued again. A small job without GPUs drives them. Default: one job.",
        examples=[16],
    )
    head_partition: Text | None = Field(
        None,
        description="With `array`: partition of the job that drives the others. Default: that of the others.",
        examples=["cpu"],
    )
    head_time: Time | None = Field(
        None, description="With `array`: time limit of the job that drives the others. Default: theirs.",
        examples=["7-00:00:00"],
    )  # fmt: skip
    head_cpus: Count = Field(2, description="With `array`: CPU cores of the job that drives the others.", examples=[4])
    setup: tuple[Text, ...] = Field(
        (),
        description="Shell commands that every job begins with. Without any, and without a container, jobs use the "
        "Python that `submit` runs with.",
        examples=[["module load cuda", "source ~/venv/bin/activate"]],
    )
    container: Text | None = Field(
        None,
        description="Command before every command of the job, which runs it in a container. Default: none.",
        examples=["apptainer exec --nv /shared/loco-sweep.sif"],
    )
    notice: Annotated[int, Field(ge=10, le=3600)] = Field(
        300,
        description="Seconds before the time limit at which no more work is begun; what is at work has two thirds of "
        "them to end.",
        examples=[120],
    )
    options: tuple[Option, ...] = Field(
        (), description="Other options of sbatch, for every job.", examples=[["--constraint=a100", "--exclusive"]]
    )

    @model_validator(mode="after")
    def _check(self) -> SlurmSpec:
        if self.array is None:
            for name in ("head_partition", "head_time", "head_cpus"):
                if name in self.model_fields_set:
                    raise problem((name,), "is for array, whose jobs a small one drives; expected array, or none of it")
        elif self.nodes != 1:
            raise problem(("nodes",), f"{self.nodes}, with array; expected array alone: each of its jobs has one node")
        for name, time in (("time", self.time), ("head_time", self.head_time)):
            if time is not None and 0 < seconds_of(time) <= self.notice:
                key = "notice" if "notice" in self.model_fields_set else name
                message = f"no work is begun in the last {self.notice} s, and {name} is {seconds_of(time)} s"
                raise problem((key,), f"{message}; expected a longer time, or a shorter notice")
        if self.memory_per_node is not None and 0 < self.memory_per_node < _MIB:
            raise problem(("memory_per_node",), f"{self.memory_per_node} bytes hold no job; expected a unit, as in 64G")
        return self

    @property
    def memory(self) -> str | None:
        """The memory per node, as sbatch takes it."""
        return None if self.memory_per_node is None else f"{-(-self.memory_per_node // _MIB)}M"
