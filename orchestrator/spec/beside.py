"""What a model is loaded with beside its weights, and the other model that may be its donor."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BeforeValidator, Field, model_validator

from loco_core.diffusion.single_files import is_single_file
from orchestrator.spec.places import ModelPlace, Place
from orchestrator.spec.rules import Name, Strict, problem, spelled

if TYPE_CHECKING:
    from orchestrator.spec.sweep import SweepSpec

Variant = Annotated[str, spelled(r"^\w+$", "a word such as fp16", shortest=1, longest=50)]


class LoraSpec(Strict):
    """A LoRA that is fused into a model's weights."""

    path: Place = Field(
        description="A .safetensors file in the naming of diffusers, peft or kohya.", examples=["./style.safetensors"]
    )
    scale: Annotated[float, Field(ge=-100, le=100)] = Field(
        1.0, description="Factor of the change that it makes.", examples=[0.8]
    )

    def __str__(self) -> str:
        return f"{self.path} x {self.scale:g}"


def by_path(value: Any) -> Any:
    """Takes a path alone for keys of which it is one."""
    return {"path": value} if isinstance(value, str) else value


Lora = Annotated[LoraSpec, BeforeValidator(by_path, json_schema_input_type=Place | LoraSpec)]


class TextualInversionSpec(Strict):
    """A word that a model learns."""

    path: Place = Field(
        description="A .safetensors file with one or more vectors, for models of two CLIP encoders as `clip_l` and "
        "`clip_g`.",
        examples=["./cat.safetensors"],
    )
    token: Annotated[str, spelled(r"^\S+$", "a word without spaces", shortest=1, longest=100)] = Field(
        description="The word as prompts write it. It may be no word of the model's vocabulary.", examples=["<cat>"]
    )

    def __str__(self) -> str:
        return f"{self.token} of {self.path}"


class DonorSpec(Strict):
    """Another model whose K and V a model's sites read, such as the one before training."""

    path: ModelPlace = Field(
        description="Folder or hub id of a diffusers pipeline, or a checkpoint in one .safetensors file, with the same "
        "cross-attention as the model.",
        examples=["./before"],
    )
    revision: Name | None = Field(None, description="As `models.revision`, of the donor.", examples=["main"])
    config: ModelPlace | None = Field(None, description="As `models.config`, of the donor.", examples=["./sd15"])
    variant: Variant | None = Field(None, description="As `models.variant`, of the donor.", examples=["fp16"])
    loras: tuple[Lora, ...] = Field(
        (),
        description="LoRAs that are fused into the donor's weights: those whose change is to be brought into the "
        "model, where the donor is the model after training.",
        examples=[["./style.safetensors"]],
    )

    @model_validator(mode="after")
    def _check(self) -> DonorSpec:
        if self.config is not None and not is_single_file(self.path):
            raise problem(("config",), "it is for a path that is one .safetensors file; expected none")
        return self

    def __str__(self) -> str:
        more = "".join(f" + {lora}" for lora in self.loras)
        return f"{self.path}{more}" if self.revision is None else f"{self.path} @ {self.revision}{more}"


DonorModel = Annotated[DonorSpec, BeforeValidator(by_path, json_schema_input_type=ModelPlace | DonorSpec)]


def of_weights(options: Any) -> Any:
    """Writes down what interventions are by default where the donor is a model: its weights serve both halves."""
    if not isinstance(options, tuple):
        return options
    own = {"source": "weights", "guidance_half": "both"}
    return tuple({**own, **each} if isinstance(each, dict) else each for each in options)


def check_donors(spec: SweepSpec) -> None:
    """Refuses a sweep of which a part has a model as donor, and another part donor prompts."""
    lacking = [i for i, model in enumerate(spec.models) if model.donor is None]
    have = len(lacking) < len(spec.models)
    if have and lacking:
        message = f"{spec.models[lacking[0]].id} has none, and other models have one; expected one of each, or none"
        raise problem(("models", lacking[0], "donor"), message)
    for i, option in enumerate(spec.interventions):
        if have != (option.source == "weights"):
            fits = "'weights'" if have else "'run' or 'own', or models with a donor"
            raise problem(("interventions", i, "source"), f"{option.source!r} is wrong; expected {fits}")
        if have and option.pooled == "donor":
            message = "'donor' is of donor prompts, and the donor is a model; expected 'prompt'"
            raise problem(("interventions", i, "pooled"), message)
