"""The models of a sweep: which weights, how they compute, and what a worker of each needs."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, ByteSize, Field, model_validator
from pydantic_core import PydanticCustomError

from loco_core import types
from loco_core.diffusion.facts import ModelInfo, published_model
from loco_core.diffusion.single_files import is_single_file
from loco_core.types import Attention, DeviceMap, Engine, Extras, Generation, Offload, TextualInversion
from orchestrator.spec.accelerators import ACCELERATOR_LABEL, Accelerator, memory_of
from orchestrator.spec.beside import DonorModel, DonorSpec, Lora, TextualInversionSpec, Variant, by_path
from orchestrator.spec.places import ModelPlace
from orchestrator.spec.rules import Name, Strict, no_repeats, problem

_SHORT = {"fp32": "float32", "fp16": "float16", "half": "float16", "bf16": "bfloat16"}


def _whole(value: Any) -> Any:
    if isinstance(value, float):
        raise PydanticCustomError("rule", f"{value} is wrong; a worker has its GPUs to itself: expected a whole number")
    return value


def _bytes(value: Any) -> Any:
    """Takes the suffixes of Kubernetes, too: 12Gi is 12GiB."""
    if not isinstance(value, str):
        return value
    if not re.fullmatch(r"\s*\d+(\.\d+)?\s*([kmgtKMGT]?i?[bB]?)\s*", value):
        raise PydanticCustomError("rule", "{value} is wrong; expected a size such as 24GiB or 24GB", {"value": value})
    return re.sub(r"i\s*$", "iB", value)


Gpus = Annotated[int, Field(ge=0, le=16), BeforeValidator(_whole)]
Memory = Annotated[ByteSize, BeforeValidator(_bytes)]
Dtype = Annotated[
    Literal["float32", "float16", "bfloat16"],
    BeforeValidator(
        lambda value: _SHORT.get(value, value) if isinstance(value, str) else value,
        json_schema_input_type=Literal["float32", "float16", "bfloat16", "fp32", "fp16", "half", "bf16"],
    ),
]


class WorkerNeeds(Strict):
    """What one worker of a model needs."""

    gpus: Gpus | None = Field(
        None,
        description="GPUs per worker, all on one node. 0 runs on the CPU. Default: one GPU where the machine or the "
        "cluster has any, else none.",
        examples=[1],
    )
    accelerators: tuple[Accelerator, ...] = Field(
        (),
        description="Types of GPU that will do, such as H100 or A100; passed to Ray as labels of nodes, and compared "
        "with what a GPU calls itself. Default: any GPU will do.",
        examples=[["H100", "A100"]],
    )
    min_gpu_memory: Memory | None = Field(
        None,
        description="Least memory of each GPU, with a unit or in bytes. Workers report what theirs have, and get only "
        "what fits. Default: any GPU will do.",
        examples=["24GiB"],
    )
    label_selector: dict[str, str] = Field(
        default_factory=dict,
        description="Labels that a node must have; passed to Ray as they are.",
        examples=[{"zone": "a"}],
    )

    @model_validator(mode="after")
    def _check(self) -> WorkerNeeds:
        if self.accelerators and ACCELERATOR_LABEL in self.label_selector:
            message = "accelerators says it too; expected one of them"
            raise problem(("label_selector", ACCELERATOR_LABEL), message)
        known = [memory_of(name) for name in self.accelerators]
        least, most = self.min_gpu_memory, max((each for each in known if each is not None), default=0)
        if least is not None and known and None not in known and most < least:
            message = f"{least.human_readable()} is more than {' or '.join(self.accelerators)} has; expected less"
            raise problem(("min_gpu_memory",), message)
        return self


class EngineSpec(Strict):
    """How a model computes: memory and speed; see `loco_core.types.Engine`."""

    attention: Attention = Field(
        "default",
        description="Kernel of torch's scaled dot-product attention. `default` leaves the choice to torch.",
        examples=["math"],
    )
    channels_last: bool | None = Field(
        None,
        description="Whether the denoiser's convolutions use the channels-last memory layout. Default: whichever was "
        "measured to be faster on that kind of device.",
        examples=[True],
    )
    compile: bool = Field(
        False,
        description="Whether modules that no intervention reaches are compiled with `torch.compile`.",
        examples=[True],
    )
    vae_slicing: bool | None = Field(
        None,
        description="Whether the VAE decodes one picture at a time, which saves memory. Default: on GPUs only.",
        examples=[True],
    )
    vae_tiling: bool = Field(
        False,
        description="Whether the VAE decodes large pictures in overlapping tiles, which saves memory and changes "
        "pixels at the seams.",
        examples=[True],
    )
    offload: Offload = Field(
        "none",
        description="What waits in main memory while it is not used: nothing (`none`), whole components (`model`), or "
        "single layers (`sequential`: least GPU memory, slowest).",
        examples=["model"],
    )
    device_map: DeviceMap | None = Field(
        None,
        description="`balanced` spreads the components of a pipeline over the GPUs of a worker. Default: `balanced` "
        "where a worker has several GPUs, else `none`.",
        examples=["balanced"],
    )

    @model_validator(mode="after")
    def _check(self) -> EngineSpec:
        if self.offload != "none" and self.device_map == "balanced":
            message = "'balanced' keeps all weights on GPUs; expected it without offload, or offload without it"
            raise problem(("device_map",), message)
        if self.offload == "sequential" and self.compile:
            message = "compiled modules would read weights that are not there; expected offload: model, or none"
            raise problem(("compile",), message)
        return self


class SuperResolutionSpec(Strict):
    """A second stage, which enlarges a model's images."""

    path: ModelPlace = Field(
        description="Folder or hub id of a diffusers pipeline that enlarges pictures.",
        examples=["DeepFloyd/IF-II-L-v1.0"],
    )
    revision: Name | None = Field(
        None,
        description="Revision of a hub id: a commit, a branch or a tag. Default: the newest.",
        examples=["main"],
    )

    def __str__(self) -> str:
        return self.path if self.revision is None else f"{self.path} @ {self.revision}"


SuperResolution = Annotated[
    SuperResolutionSpec, BeforeValidator(by_path, json_schema_input_type=ModelPlace | SuperResolutionSpec)
]


class ModelSpec(Strict):
    """A model of the sweep."""

    id: Name = Field(
        description="Name of the model in the results: a name that `loco-sweep models` lists, or any name where `path` "
        "is given.",
        examples=["sd15"],
    )
    path: ModelPlace | None = Field(
        None,
        description="Folder or hub id of a diffusers pipeline, or a checkpoint in one .safetensors file. Default: the "
        "model that `id` names.",
        examples=["./my-pipeline"],
    )
    revision: Name | None = Field(
        None,
        description="Revision of a hub id, of a single file that of its `config`: a commit, a branch or a tag. "
        "Default: that of the model that `id` names, else the newest.",
        examples=["main"],
    )
    config: ModelPlace | None = Field(
        None,
        description="For a single file, a folder or hub id of a pipeline of the same kind, which lends it what it "
        "lacks: configurations, tokenizers, scheduler, and text encoders or a VAE that it does not hold. Default: the "
        "published model of its kind, from the hub or its cache.",
        examples=["./sd15"],
    )
    variant: Variant | None = Field(
        None,
        description="Variant of the weights, such as `fp16`: files with this word in their names. Default: plain "
        "weights, and a variant where it is the only one. It does not change `dtype`.",
        examples=["fp16"],
    )
    loras: tuple[Lora, ...] = Field(
        (),
        description="LoRAs, fused into the weights in this order when the model is loaded: files, or their keys.",
        examples=[[{"path": "./style.safetensors", "scale": 0.8}]],
    )
    textual_inversions: tuple[TextualInversionSpec, ...] = Field(
        (),
        description="Words that the model learns before anything is drawn.",
        examples=[[{"path": "./cat.safetensors", "token": "<cat>"}]],
    )
    dtype: Dtype = Field(
        "float32",
        description="Number format of weights and activations. It changes the pixels. Default: that in which the model "
        "is published, for models named here or by their hub id, as the page of models lists it; float32 for "
        "folders.",
        examples=["float16"],
    )
    engine: EngineSpec = Field(
        EngineSpec(),
        description="How the model computes: memory and speed. All but `offload` and `device_map` change the last bits "
        "of a picture, and so may not change once there are results.",
        examples=[{"offload": "model"}],
    )
    guidance_scale: Annotated[float, Field(ge=0, le=1000)] | None = Field(
        None,
        description="Scale of classifier-free guidance of this model, or the number that a distilled model reads. "
        "Default: `generation.guidance_scale`; where the sweep has none, that with which the model is published, for "
        "models named here or by their hub id.",
        examples=[3.5],
    )
    super_resolution: SuperResolution | None = Field(
        None,
        description="Second stage that enlarges the pictures, in families that have one: a folder, a hub id, or its "
        "keys. Default: pictures stay as the model draws them.",
        examples=["DeepFloyd/IF-II-L-v1.0"],
    )
    donor: DonorModel | None = Field(
        None,
        description="Another model as donor, such as this one before it was trained, in families with "
        "cross-attention: swapped sites then read the row's own prompt through the keys and values of this model, in "
        "place of the donor prompt. A folder, a hub id, or its keys. All models of a sweep have one, or none. Default: "
        "none.",
        examples=["./before"],
    )
    worker: WorkerNeeds = Field(
        WorkerNeeds(), description="What one worker of this model needs.", examples=[{"gpus": 1}]
    )

    @model_validator(mode="before")
    @classmethod
    def _as_published(cls, value: Any) -> Any:
        """Writes the default down, so that results keep it whatever a later version knows of the model."""
        if not isinstance(value, dict) or "dtype" in value:
            return value
        known = published_of(value)
        return value if known is None or known.dtype == "float32" else {**value, "dtype": known.dtype}

    @property
    def how(self) -> Engine:
        """The engine as the science knows it: several GPUs share a model unless it says otherwise."""
        several = self.worker.gpus is not None and self.worker.gpus > 1
        device_map = self.engine.device_map or ("balanced" if several else "none")
        return Engine(**{**self.engine.model_dump(), "device_map": device_map})

    @property
    def extras(self) -> Extras:
        """What it is loaded with beside its path, as the science knows it."""
        loras = tuple(types.Lora(item.path, item.scale) for item in self.loras)
        words = tuple(TextualInversion(item.path, item.token) for item in self.textual_inversions)
        return Extras(self.config or "", self.variant, loras, words)

    @property
    def is_single_file(self) -> bool:
        """Whether its path is a checkpoint in one file."""
        return self.path is not None and is_single_file(self.path)

    @model_validator(mode="after")
    def _check_files(self) -> ModelSpec:
        if self.config is not None and not self.is_single_file:
            raise problem(("config",), "it is for a path that is one .safetensors file; expected none")
        if self.is_single_file and self.how.device_map == "balanced":
            message = "a single file cannot be spread over GPUs; expected worker.gpus: 1, or the folder of a pipeline"
            raise problem(("path",), message)
        no_repeats(("textual_inversions",), (item.token for item in self.textual_inversions), "token")
        return self

    @model_validator(mode="after")
    def _check(self) -> ModelSpec:
        gpus, engine = self.worker.gpus, self.engine
        if engine.device_map == "balanced" and (gpus is None or gpus < 2):
            message = f"'balanced' spreads a model over several GPUs; expected worker.gpus of 2 or more, not {gpus}"
            raise problem(("engine", "device_map"), message)
        if gpus is not None and gpus > 1 and engine.device_map == "none":
            message = (
                f"'none' leaves {gpus - 1} of {gpus} GPUs of a worker idle; expected 'balanced', or worker.gpus: 1"
            )
            raise problem(("engine", "device_map"), message)
        if gpus is not None and gpus != 1 and engine.offload != "none":
            message = f"{engine.offload!r} keeps one GPU busy; expected worker.gpus: 1, not {gpus}"
            raise problem(("engine", "offload"), message)
        return self


def donor_as_model(spec: DonorSpec) -> ModelSpec:
    """Returns a donor as a model of a sweep is written."""
    return ModelSpec(
        id="donor", path=spec.path, revision=spec.revision, config=spec.config, variant=spec.variant, loras=spec.loras
    )


def donor_of(item: Any) -> Any:
    """Returns the donor of a model of a sweep, however the sweep writes it; None where it has none."""
    return item.donor if isinstance(item, ModelSpec) else item.get("donor") if isinstance(item, dict) else None


def published_of(item: Any) -> ModelInfo | None:
    """Returns what is known of a model of a sweep as published, however the sweep writes it; else None."""
    if isinstance(item, ModelSpec):
        item = {"id": item.id, "path": item.path}
    name = (item.get("path") or item.get("id")) if isinstance(item, dict) else item
    return published_model(name) if isinstance(name, str) else None


def guided(item: Any, known: ModelInfo | None) -> Any:
    """Writes the published guidance scale of a model down, where neither it nor its sweep names one."""
    scale = None if known is None else known.guidance_scale
    if scale is None or scale == Generation().guidance_scale:
        return item
    if isinstance(item, ModelSpec):
        return item if item.guidance_scale is not None else item.model_copy(update={"guidance_scale": scale})
    whole = {"id": item} if isinstance(item, str) else item
    return whole if "guidance_scale" in whole else {**whole, "guidance_scale": scale}


def _model_by_id(value: Any) -> Any:
    return {"id": value} if isinstance(value, str) else value


Model = Annotated[ModelSpec, BeforeValidator(_model_by_id, json_schema_input_type=Name | ModelSpec)]
"""A model, or the bare id of one."""
