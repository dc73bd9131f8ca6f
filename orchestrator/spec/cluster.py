"""The models behind ``cluster.yaml``: a sweep, where it runs, and where its results go."""

from __future__ import annotations

import re
from types import MappingProxyType
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Discriminator, Field, Tag, model_validator
from pydantic_core import PydanticCustomError

from loco_core.masking import (
    SECRET_NAMES,
    has_password,
    holds_credential,
    is_credential_name,
    is_plain_value,
    masked,
)
from orchestrator.spec.budget import BudgetSpec, CostSpec
from orchestrator.spec.model import Gpus
from orchestrator.spec.other_words import OTHER_WORDS
from orchestrator.spec.places import Place, ResultsPlace
from orchestrator.spec.rayjob import Dns, RayJobSpec
from orchestrator.spec.rules import Name, Strict, Text, expanded, no_repeats, problem, spelled
from orchestrator.spec.slurm import SlurmSpec
from orchestrator.spec.sweep import SweepSpec

MAX_WORKERS = 100_000


class WorkersSpec(Strict):
    """The workers of a sweep on a cluster; every worker is one Ray actor."""

    gpus: Gpus = Field(
        1,
        description="GPUs per worker, all on one node, for models that do not say; 0 runs on the CPU.",
        examples=[2],
    )
    cpus: Annotated[int, Field(ge=1, le=1024)] = Field(
        1, description="CPU cores per worker, and its number of CPU threads.", examples=[8]
    )
    min: Annotated[int, Field(ge=0, le=MAX_WORKERS)] = Field(
        0,
        description="Workers that a RayJob keeps up. With a launcher, its own file says this per node type.",
        examples=[1],
    )
    max: Annotated[int, Field(ge=1, le=MAX_WORKERS)] | Literal["auto"] = Field(
        "auto",
        description="Largest number of workers. `auto` is as many as the cluster can hold. Workers that wait make an "
        "autoscaler add nodes, up to what its own file allows.",
        examples=[16],
    )
    label_selector: dict[str, str] = Field(
        default_factory=dict,
        description="Labels that a node must have, for models that do not say; passed to Ray as they are.",
        examples=[{"ray.io/accelerator-type": "H100"}],
    )

    @model_validator(mode="after")
    def _check(self) -> WorkersSpec:
        if self.max != "auto" and self.min > self.max:
            raise problem(("min",), f"{self.min} is more than max; expected at most {self.max}")
        return self


def _dashboard(value: str) -> str:
    if not re.fullmatch(r"https?://[^/\s]+/?", value):
        raise PydanticCustomError(
            "rule",
            "{value} is wrong; expected the address of the cluster's dashboard, http://HEAD:8265, which takes jobs",
            {"value": repr(value)},
        )
    return value


class ClusterChoice(Strict):
    """Where a sweep runs: exactly one of these."""

    local: Literal[True] | None = Field(
        None, description="`true` starts Ray on this machine for the sweep.", examples=[True]
    )
    address: Annotated[str, AfterValidator(expanded), AfterValidator(_dashboard)] | None = Field(
        None, description="Address of the dashboard of a running Ray cluster.", examples=["http://HEAD:8265"]
    )
    launcher: Place | None = Field(
        None,
        description="File of Ray's cluster launcher (`ray up`), relative to the cluster file.",
        examples=["ray.yaml"],
    )
    down: bool = Field(
        False,
        description="With a launcher: take its cluster down when the job is over, however it ended. `submit` stays "
        "until then, as with `--wait`; `cancel` takes the cluster down, too.",
        examples=[True],
    )
    rayjob: RayJobSpec | None = Field(
        None,
        description="A RayJob of KubeRay, created with kubectl.",
        examples=[{"image": "my-registry/loco-sweep:latest"}],
    )
    slurm: SlurmSpec | None = Field(
        None,
        description="A job of Slurm, or an array of them, submitted with sbatch on a login node.",
        examples=[{"partition": "gpu", "time": "24:00:00", "nodes": 4, "gpus_per_node": 4}],
    )

    @model_validator(mode="after")
    def _check(self) -> ClusterChoice:
        if self.address is not None and has_password(self.address):
            raise problem(("address",), "holds a password; expected http://HEAD:8265, and the token in RAY_AUTH_TOKEN")
        places = [name for name in type(self).model_fields if name != "down"]
        given = [name for name in places if getattr(self, name) is not None]
        if len(given) != 1:
            found = f"{' and '.join(given)} are given; expected only" if given else "none is given; expected"
            raise problem((), f"{found} one of {', '.join(places)}")
        if self.down and self.launcher is None:
            raise problem(("down",), "only a launcher's cluster can be taken down; expected launcher, too, or no down")
        return self


class RuntimeEnvSpec(Strict):
    """What a job finds besides the project's packages."""

    env_vars: dict[str, str] = Field(
        default_factory=dict,
        description="Environment variables of the job. Credentials do not belong here: Ray writes them into its logs.",
        examples=[{"HF_HOME": "/data/hub"}],
    )
    pip: tuple[Text, ...] = Field(
        (), description="Packages that Ray installs on every node with pip.", examples=[["my-plugin==1.0"]]
    )

    @model_validator(mode="after")
    def _check(self) -> RuntimeEnvSpec:
        for name, value in self.env_vars.items():
            if (is_credential_name(name) and not is_plain_value(value)) or holds_credential(value):
                message = "looks like a credential, which Ray would log; set it in the environment of the nodes instead"
                raise problem(("env_vars", name), message)
        for number, package in enumerate(self.pip):
            if holds_credential(package):
                message = "holds a password, which Ray would log; expected none: nodes read PIP_INDEX_URL and ~/.netrc"
                raise problem(("pip", number), message)
        return self


def _mirror(value: str) -> str:
    if has_password(value) or not re.fullmatch(r"https?://[^/\s]+(/\S*)?", value):
        message = "{value} is wrong; expected an address such as https://HOST, without a password"
        raise PydanticCustomError("rule", message, {"value": masked(repr(value))})
    return value.rstrip("/")


CachePath = Annotated[str, spelled(r"^/[^\x00-\x1f\x7f:]+$", "a full path, such as /mnt/hub", longest=1000)]
Variable = Annotated[
    str, spelled(r"^[A-Za-z_][A-Za-z0-9_]*$", "the name of an environment variable, such as HF_TOKEN", longest=200)
]


class CacheSpec(Strict):
    """Where nodes keep what they fetch from the hub."""

    path: CachePath | None = Field(
        None,
        description="Full path of a folder on every node, which becomes `HF_HOME`: what one worker has fetched the "
        "others read. Pods of a RayJob mount it from their node. Default: the home folder's.",
        examples=["/mnt/hub"],
    )
    claim: Dns | None = Field(
        None,
        description="With `rayjob`: name of a PersistentVolumeClaim that many pods may write, mounted at `path` in "
        "place of a folder of the node. Default: none.",
        examples=["hub-cache"],
    )
    mirror: Annotated[str, AfterValidator(_mirror)] | None = Field(
        None,
        description="Address of a mirror of the hub, which becomes `HF_ENDPOINT`. It is sent `HF_TOKEN` too. "
        "Default: the hub.",
        examples=["https://hub.my-company.com"],
    )

    @model_validator(mode="after")
    def _check(self) -> CacheSpec:
        if self.claim is not None and self.path is None:
            raise problem(("claim",), "no path is given; expected the path at which the claim is mounted")
        return self

    @property
    def environment(self) -> dict[str, str]:
        """The environment variables that say it to the hub's client."""
        found = {"HF_HOME": self.path, "HF_ENDPOINT": self.mirror}
        return {name: value for name, value in found.items() if value is not None}


class RetriesSpec(Strict):
    """What is tried again."""

    driver: Annotated[int, Field(ge=0, le=100)] = Field(
        3,
        description="How many times a driver that died is started again: by `submit --wait`; of a RayJob and on Slurm "
        "by the job itself.",
        examples=[0],
    )


def _is_path(value: Any) -> str:
    return "path" if isinstance(value, str) else "inline"


class ClusterSpec(Strict):
    """A sweep on a cluster."""

    other_words = MappingProxyType(OTHER_WORDS)
    name: Name = Field(description="Name of the jobs.", examples=["first"])
    sweep: Annotated[Annotated[Place, Tag("path")] | Annotated[SweepSpec, Tag("inline")], Discriminator(_is_path)] = (
        Field(
            description="Path of the sweep's file, relative to the cluster file, or the sweep itself.",
            examples=["sweep.yaml"],
        )
    )
    results: ResultsPlace = Field(
        description="Full path of a folder that every node mounts, or an address (`s3://`, `gs://`, `abfs://`). With "
        "`local: true` a path may be relative to the cluster file.",
        examples=["s3://my-bucket/first"],
    )
    workers: WorkersSpec = Field(
        WorkersSpec(), description="How many workers there are, and what each needs.", examples=[{"gpus": 1, "max": 16}]
    )
    priority: Annotated[float, Field(ge=0.001, le=1000)] = Field(
        1.0,
        description="Weight of this sweep's share of a cluster on which others sweep at the same time: 2 and 1 are two "
        "thirds of the workers and one third, as far as both have work.",
        examples=[2],
    )
    cluster: ClusterChoice = Field(
        description="Where the workers run: exactly one of `local`, `address`, `launcher`, `rayjob` and `slurm`.",
        examples=[{"address": "http://HEAD:8265"}],
    )
    runtime_env: RuntimeEnvSpec = Field(
        RuntimeEnvSpec(),
        description="Environment variables and packages of the job.",
        examples=[{"env_vars": {"HF_HOME": "/data/hub"}}],
    )
    secrets: tuple[Variable, ...] = Field(
        (),
        description="Names of environment variables that hold credentials. `submit` takes their values from its own "
        "environment, and workers find them in theirs; no log, result or report holds them. With `address` there is no "
        "such way: set them where the nodes run `ray start`.",
        examples=[["HF_TOKEN"]],
    )
    cache: CacheSpec = Field(
        CacheSpec(),
        description="Where nodes keep models of the hub, and where they get them from.",
        examples=[{"path": "/mnt/hub"}],
    )
    retries: RetriesSpec = Field(
        RetriesSpec(), description="How often what fails is tried again.", examples=[{"driver": 3}]
    )
    cost: CostSpec = Field(
        CostSpec(),
        description="Prices, from which `plan` and `submit` say what the sweep will cost, and `status` and the report "
        "what it has cost.",
        examples=[{"per_gpu_hour": 2.5}],
    )
    budget: BudgetSpec | None = Field(
        None,
        description="How much all runs of the sweep may use before it stops. Default: no limit.",
        examples=[{"gpu_hours": 100.0, "then": "stop"}],
    )

    @model_validator(mode="after")
    def _check(self) -> ClusterSpec:
        if has_password(self.results):
            message = "holds a password; expected s3://bucket/folder, and the keys in the environment of the nodes"
            raise problem(("results",), message)
        self._check_variables()
        if self.cache.claim is not None and self.cluster.rayjob is None:
            raise problem(("cache", "claim"), "only a RayJob mounts a claim; expected path alone")
        if self.cluster.rayjob is not None and self.cluster.rayjob.queue and self.workers.max == "auto":
            missing = "max" not in self.workers.model_fields_set
            raise problem(
                ("cluster", "rayjob", "queue"),
                f"workers.max is {'missing' if missing else 'auto'}; Kueue admits all pods or none: expected a number "
                "there",
            )
        if self.cluster.slurm is not None and self.runtime_env.pip:
            message = "nothing is installed on nodes of Slurm; expected none, and these in the Python of the nodes"
            raise problem(("runtime_env", "pip"), message)
        if self.budget is not None and self.budget.cost is not None and not self.cost.known:
            raise problem(("budget", "cost"), "no price is given; expected cost: {per_gpu_hour: ..}, too")
        return self

    def _check_variables(self) -> None:
        no_repeats(("secrets",), self.secrets, "the variable")
        if self.secrets and self.cluster.address is not None:
            message = (
                "what a job brings to a running cluster, Ray writes into its logs; expected no secrets here: set "
                f"{' and '.join(self.secrets)} in the environment in which its nodes run `ray start`"
            )
            raise problem(("secrets",), message)
        given = self.runtime_env.env_vars
        for number, name in enumerate(self.secrets):
            if name in given or name in self.cache.environment:
                raise problem(("secrets", number), f"{name} is given in runtime_env or cache too; expected it once")
        for name in self.cache.environment:
            if name in given:
                key = "path" if name == "HF_HOME" else "mirror"
                raise problem(("cache", key), f"runtime_env.env_vars gives {name} too; expected one of them")

    @property
    def environment(self) -> dict[str, str]:
        """Environment variables of the job, where nothing of them is secret: names of secrets, not their values."""
        names = {SECRET_NAMES: ",".join(self.secrets)} if self.secrets else {}
        return {**names, **self.cache.environment, **self.runtime_env.env_vars}
