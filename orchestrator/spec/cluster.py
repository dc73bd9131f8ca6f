"""The models behind ``cluster.yaml``: a sweep, where it runs, and where its results go."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, StringConstraints, Tag, model_validator

from loco_core.masking import has_password, holds_credential, is_credential_name, is_plain_value
from orchestrator.spec.places import Place
from orchestrator.spec.rules import Name, Strict, Text, problem
from orchestrator.spec.sweep import SweepSpec

MAX_WORKERS = 100_000


class WorkersSpec(Strict):
    """The workers of a sweep on a cluster; every worker is one Ray actor.

    Attributes:
        gpus: whole GPUs of one node a worker, for models that do not say.
        cpus: CPU cores a worker, and its CPU threads.
        min: workers that a RayJob keeps up; a launcher's file says it for its node types.
        max: workers at most; pending ones make the cluster grow.
        label_selector: node labels, passed to Ray as they are, for models that do not say.
    """

    gpus: Annotated[int, Field(ge=0, le=16)] = 1
    cpus: Annotated[int, Field(ge=1, le=1024)] = 1
    min: Annotated[int, Field(ge=0, le=MAX_WORKERS)] = 0
    max: Annotated[int, Field(ge=1, le=MAX_WORKERS)] = 1
    label_selector: dict[str, str] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _check(self) -> WorkersSpec:
        if self.min > self.max:
            raise problem(("min",), f"{self.min} is more than max; expected at most {self.max}")
        return self


class RayJobSpec(Strict):
    """A KubeRay RayJob.

    Attributes:
        image: with Python, Ray and the project's dependencies.
        namespace: of the manifest.
        head_cpus: CPU cores of the head's pod.
        head_memory: of the head's pod, in Kubernetes' words.
        worker_memory: of a worker's pod.
        secret: name of a Kubernetes secret whose keys become environment variables, such as S3 credentials.
        node_selector: of the workers' pods.
    """

    image: Text
    namespace: Annotated[str, StringConstraints(pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$", max_length=63)] = "default"
    head_cpus: Annotated[int, Field(ge=1)] = 2
    head_memory: Text = "8Gi"
    worker_memory: Text = "32Gi"
    secret: Text | None = None
    node_selector: dict[str, str] = Field(default_factory=dict)


class ClusterChoice(Strict):
    """Where a sweep runs: exactly one of these.

    Attributes:
        local: Ray is started on this machine for the sweep.
        address: of the dashboard of a running cluster, ``http://HEAD:8265``.
        launcher: path of a file, from this file on, for Ray's cluster launcher (``ray up``).
        rayjob: a RayJob of KubeRay.
    """

    local: Literal[True] | None = None
    address: Annotated[str, StringConstraints(pattern=r"^https?://[^/\s]+/?$")] | None = None
    launcher: Place | None = None
    rayjob: RayJobSpec | None = None

    @model_validator(mode="after")
    def _check(self) -> ClusterChoice:
        if self.address is not None and has_password(self.address):
            raise problem(("address",), "holds a password; expected http://HEAD:8265, and the token in RAY_AUTH_TOKEN")
        given = [name for name in type(self).model_fields if getattr(self, name) is not None]
        if len(given) != 1:
            found = " and ".join(given) or "none"
            raise problem((), f"{found} is given; expected one of {', '.join(type(self).model_fields)}")
        return self


class RuntimeEnvSpec(Strict):
    """What a job finds beside the project's packages.

    Attributes:
        env_vars: environment variables; credentials do not belong here, as Ray writes them into its logs.
        pip: packages that Ray installs on every node.
    """

    env_vars: dict[str, str] = Field(default_factory=dict)
    pip: tuple[Text, ...] = ()

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


class RetriesSpec(Strict):
    """What is tried again.

    Attributes:
        driver: times that ``submit --wait`` submits the job once more after its driver died; a RayJob is not retried.
    """

    driver: Annotated[int, Field(ge=0, le=100)] = 3


class CostSpec(Strict):
    """Prices.

    Attributes:
        per_gpu_hour: of one GPU, in any currency; of one worker where workers have no GPU.
    """

    per_gpu_hour: Annotated[float, Field(ge=0)] = 0.0


def _is_path(value: Any) -> str:
    return "path" if isinstance(value, str) else "inline"


class ClusterSpec(Strict):
    """A sweep on a cluster.

    Attributes:
        name: of the jobs.
        sweep: the sweep, or the path of its file, from this file on.
        results: folder, from this file on, or ``s3://`` address, the same for all nodes.
        workers: how many, and what each needs.
        cluster: where they run.
        runtime_env: what they find there.
        retries: what is tried again.
        cost: prices.
    """

    name: Name
    sweep: Annotated[Annotated[Place, Tag("path")] | Annotated[SweepSpec, Tag("inline")], Discriminator(_is_path)]
    results: Place
    workers: WorkersSpec = WorkersSpec()
    cluster: ClusterChoice
    runtime_env: RuntimeEnvSpec = RuntimeEnvSpec()
    retries: RetriesSpec = RetriesSpec()
    cost: CostSpec = CostSpec()

    @model_validator(mode="after")
    def _check(self) -> ClusterSpec:
        if has_password(self.results):
            message = "holds a password; expected s3://bucket/folder, and the keys in the environment of the nodes"
            raise problem(("results",), message)
        return self
