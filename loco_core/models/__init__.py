"""The families of models, one file each: torch-free facts about them, and how to load and prompt them.

A family file exports ``INFO`` (a :class:`FamilyInfo`) and a class ``Family`` that fulfils :class:`Family`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from loco_core import registry
from loco_core.errors import ModelError, SpecError, did_you_mean
from loco_core.types import Site

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class ModelInfo:
    """A model that a family knows by name.

    Attributes:
        hub_id: its repository on the hub; empty for a model that ships with the project.
        revision: the commit that the family was written against.
        path: folder of a model that ships with the project.
        seconds_per_image: cost of one image of 50 steps on the slowest device that it is used on; plans start from it.
    """

    seconds_per_image: float
    hub_id: str = ""
    revision: str | None = None
    path: Path | None = None


@dataclass(frozen=True)
class FamilyInfo:
    """What is known of a family without loading torch.

    Attributes:
        pipelines: names of the diffusers pipeline classes that belong to it.
        models: the models it knows by name.
        status: ``supported`` or ``experimental``.
        gigabytes: accelerator memory of the largest model at half precision, one image.
        seconds_per_image: as of a model, for models that it does not know by name.
        config_file: the denoiser's configuration inside a pipeline folder.
        site_names: the sites' readable addresses in execution order, from that configuration.
        native_side: side of an image in pixels where a sweep does not say, from that configuration; an upper bound.
    """

    pipelines: tuple[str, ...]
    models: dict[str, ModelInfo]
    status: str
    gigabytes: float
    seconds_per_image: float
    config_file: str
    site_names: Callable[[dict[str, Any]], tuple[str, ...]]
    native_side: Callable[[dict[str, Any]], int]


@dataclass(frozen=True)
class PromptEmbeds:
    """Encoded prompts.

    Attributes:
        embeds: ``(prompts, tokens, width)``.
        words_end: ``(prompts,)`` int64, position after the last word of each prompt.
        ids: ``(prompts, tokens)`` int64 token ids; equal ids at a position stand for the same word.
    """

    embeds: torch.Tensor
    words_end: torch.Tensor
    ids: torch.Tensor


class Family(Protocol):
    """How one family is loaded and prompted."""

    def load(self, path: str, revision: str | None, dtype: str, device: str) -> Any:
        """Returns the diffusers pipeline, from safetensors only."""

    def denoiser(self, pipeline: Any) -> torch.nn.Module:
        """Returns the module whose cross-attention is intervened on."""

    def find_sites(self, pipeline: Any) -> tuple[Site, ...]:
        """Returns the sites in the order in which a recorded forward pass runs them."""

    def encode(self, pipeline: Any, prompts: list[str]) -> PromptEmbeds:
        """Encodes prompts."""


@dataclass(frozen=True)
class LoadedModel:
    """A pipeline on its device, with its sites.

    Attributes:
        pipeline: the diffusers pipeline.
        family: its family.
        sites: its sites in execution order.
        device: where it is.
        dtype: of its weights.
    """

    pipeline: Any = field(repr=False)
    family: Family = field(repr=False)
    sites: tuple[Site, ...]
    device: str
    dtype: str


def families() -> dict[str, FamilyInfo]:
    """Returns every family's facts by its key."""
    return {key: registry.load("models", key).INFO for key in registry.keys("models")}


def known_models() -> dict[str, tuple[str, ModelInfo]]:
    """Returns every model known by name, with its family's key."""
    return {name: (key, info) for key, family in families().items() for name, info in family.models.items()}


def find_model(name: str) -> tuple[str, ModelInfo]:
    """Returns the family's key and the facts of a model known by name.

    Raises:
        SpecError: no family knows it.
    """
    known = known_models()
    if name not in known:
        raise SpecError(
            f'no model "{name}"{did_you_mean(name, known)}; for a folder of your own write {{id: NAME, path: FOLDER}}'
        )
    return known[name]


def family_of_pipeline(class_name: str, where: str) -> str:
    """Returns the key of the family that a pipeline class belongs to.

    Raises:
        ModelError: no family knows the class.
    """
    known = {pipeline: key for key, family in families().items() for pipeline in family.pipelines}
    if class_name not in known:
        raise ModelError(f'{where} is a "{class_name}", which no family supports{did_you_mean(class_name, known)}')
    return known[class_name]


def load_model(family_key: str, path: str, revision: str | None, dtype: str, device: str) -> LoadedModel:
    """Loads a pipeline through its family's file.

    Raises:
        ModelError: it cannot be loaded.
    """
    family: Family = registry.load("models", family_key).Family()
    pipeline = family.load(path, revision, dtype, device)
    return LoadedModel(pipeline, family, family.find_sites(pipeline), device, dtype)
