"""What is known of families and of models without torch: a family's file exports ``INFO``, a :class:`FamilyInfo`."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from loco_core import plugins
from loco_core.diffusion.single_files import Layout, SingleFile, identify
from loco_core.diffusion.tokens import Reading
from loco_core.diffusion.unserved import why_unserved
from loco_core.errors import SpecError, UnknownPipelineError, did_you_mean

Half = Literal["conditional", "unconditional"]
DEFAULT = "default"
"""Key of the family that serves pipelines of classes that have none."""
STACKED: tuple[tuple[Half, ...], ...] = (("unconditional", "conditional"),)
"""Both halves in one batch, as most pipelines run guidance."""
SEPARATE: tuple[tuple[Half, ...], ...] = (("conditional",), ("unconditional",))
"""One call for each half."""
UNGUIDED: tuple[tuple[Half, ...], ...] = (("conditional",),)


@dataclass(frozen=True)
class ModelInfo:
    """A model that a family knows by name.

    Attributes:
        hub_id: its repository on the hub; empty for a model that ships with the project.
        revision: the commit that the family was written against.
        path: folder of a model that ships with the project.
        seconds_per_image: cost of one image of 50 steps on the slowest device that it is used on; plans start from it.
        gigabytes: memory of a GPU that tensors take at most while one image is drawn at half precision. Measured with
            random weights of sd15, sdxl, sd3, flux, pixart, sana and deepfloyd-if (without a second stage, which adds
            2.4 as its weights add up); of FLUX.2 and AuraFlow as weights add up; of the others as their weights differ
            from these. None where nobody knows.
        encoder_layers: transformer layers of its text encoders as published, all of them together; 0 without any.
        published: the denoiser's configuration as published, where it differs from its class's defaults: what can be
            said of the model without its weights.
        super_resolution: hub id of the second stage that was published with it; empty where none was.
        dtype: format of the denoiser's weights as published, of one that is published wider than a GPU holds the next
            narrower one; in it the model is loaded where nobody says another.
        steps: denoising steps as published, where they are not those of its family.
        guidance_scale: guidance scale as published, where it is not that of its family.
    """

    seconds_per_image: float
    hub_id: str = ""
    revision: str | None = None
    path: Path | None = None
    gigabytes: float | None = None
    encoder_layers: int = 0
    published: Mapping[str, Any] = field(default_factory=dict)
    super_resolution: str = ""
    dtype: Literal["float32", "float16", "bfloat16"] = "float32"
    steps: int | None = None
    guidance_scale: float | None = None


@dataclass(frozen=True)
class FamilyInfo:
    """What is known of a family without loading torch.

    Attributes:
        pipelines: names of the diffusers pipeline classes that belong to it.
        models: the models it knows by name.
        seconds_per_image: expected cost of an image of 50 steps, for models that it does not know by name.
        config_file: the denoiser's configuration inside a pipeline folder.
        site_names: the sites' readable addresses in execution order, from that configuration.
        native_side: side of an image in pixels where a sweep does not say, from that configuration; an upper bound.
        encoders: the text encoders, in words.
        stream: ``fixed`` where the text is the same at every step, so that K and V of a prompt are computed once;
            ``evolving`` where text and image attend to each other, so that a donor is generated beside the row that
            reads it.
        pooled: what reads a pooled text beside cross-attention, in words; empty where nothing does.
        editable: weights that an edit may change, in words.
        clip_encoders: components of the pipeline that are CLIP text encoders and whose text cross-attention reads;
            empty where there are none.
        text_encoders: components of the pipeline that encode what the sites read, each with the number of its part
            where encoders' tokens stand behind each other (see :attr:`PromptEmbeds.segments`): their layers are traced.
            Empty takes the CLIP ones, side by side.
        shared: beginning of the addresses of sites whose K and V serve the image too, so that they admit no edit of
            the text alone; empty where there are none.
        side_multiple: number of pixels that sides of images must be multiples of.
        schedulers: names of the schedulers that its pipelines work with; empty for all of the Karras kind.
        passes: how guidance runs at every step: for every call of the denoiser, which halves of guidance its batch
            holds, in that order. Without an unconditional half the guidance scale, if there is any, is a number that a
            distilled denoiser reads. Rows of a later call may read what the donor made in an earlier one.
        scale_argument: name of the argument that the pipeline's call takes the guidance scale by; empty where a part of
            the pipeline has it, see :meth:`Family.guide`.
        text_last: whether the image stands in front of the text where one projection serves both.
        words: whether it is known which tokens of a text are words: edits and traces are of words.
        follows: whether a row can be given another row's noisy picture, as ``source: own`` does.
        sides: whether the pipeline's call takes height and width.
        attackable: whether its pictures can be learned from and started from: the family's file has the methods of
            :class:`loco_core.diffusion.model.Attackable`.
        refiners: beginning of the module paths of attentions that refine or pool the text alone before it meets the
            image, and take no mask of padding that they could be given: they are no sites. Empty where there are none.
        unguided_scale: largest guidance scale at which the pipeline runs no guidance.
        guidance_example: a model with the scale that it was distilled for, where there is no unconditional half.
        channels_last: whether the denoiser was measured faster in that memory layout on a CPU.
        super_resolution_class: name of the diffusers pipeline class that may enlarge its images as a second stage; the
            family's file exports a class ``SuperResolution`` (a :class:`SuperResolution`) then. Empty where there is
            none.
        super_resolution_cost: seconds of an image of both stages, of the first alone one.
        reading: function that says how much of a prompt is read, from the index of a pipeline folder; None where only
            the loaded pipeline can tell.
        steps: default number of denoising steps, for a sweep that names none; the pipeline's own default.
        guidance_scale: default guidance scale, likewise.
        layouts: how single files of its models name their tensors; empty where there are none.
        refuses: function that says from the index of a pipeline why it is not served although its class is, in words;
            None where all of the class are.
    """

    pipelines: tuple[str, ...]
    models: dict[str, ModelInfo]
    seconds_per_image: float
    config_file: str
    site_names: Callable[[dict[str, Any]], tuple[str, ...]]
    native_side: Callable[[dict[str, Any]], int]
    encoders: str
    stream: Literal["fixed", "evolving"] = "fixed"
    pooled: str = ""
    editable: str = "K and V of the text at every site"
    clip_encoders: tuple[str, ...] = ()
    text_encoders: Mapping[str, int] = field(default_factory=dict)
    shared: str = ""
    side_multiple: int = 8
    schedulers: tuple[str, ...] = ()
    passes: tuple[tuple[Half, ...], ...] = STACKED
    scale_argument: str = "guidance_scale"
    text_last: bool = False
    words: bool = True
    follows: bool = True
    sides: bool = True
    attackable: bool = False
    refiners: str = ""
    unguided_scale: float = 1.0
    guidance_example: str = ""
    channels_last: bool = False
    super_resolution_class: str = ""
    super_resolution_cost: float = 1.0
    reading: Callable[[Mapping[str, Any]], Reading] | None = None
    steps: int = 50
    guidance_scale: float = 7.5
    layouts: tuple[Layout, ...] = ()
    refuses: Callable[[Mapping[str, Any]], str] | None = None

    def __post_init__(self) -> None:
        """Refuses calls in an order in which nothing could be read.

        Raises:
            ValueError: the first call holds no conditional half, which draws donors.
        """
        if "conditional" not in self.passes[0]:
            raise ValueError(f"passes are {self.passes}; expected the conditional half in the first call of a step")

    @property
    def traced_encoders(self) -> Mapping[str, int]:
        """The text encoders whose layers are traced, with the number of their part of the tokens."""
        return self.text_encoders or dict.fromkeys(self.clip_encoders, 0)

    @property
    def guided(self) -> bool:
        """Whether generation has an unconditional half."""
        return any("unconditional" in halves for halves in self.passes)

    @property
    def least_batch(self) -> int:
        """How many rows a batch must have: where the text evolves, a row reads from one that draws its donor."""
        return 2 if self.stream == "evolving" else 1


def families() -> dict[str, FamilyInfo]:
    """Returns every family's facts by its key."""
    return {key: plugins.load("families", key).INFO for key in plugins.keys("families")}


def known_models() -> dict[str, tuple[str, ModelInfo]]:
    """Returns every model known by name, with its family's key: those of the families, and those of plug-ins.

    A plug-in of the group ``models`` exports ``MODELS``, a mapping like the one that is returned.
    """
    found = {name: (key, info) for key, family in families().items() for name, info in family.models.items()}
    for module in plugins.modules("models"):
        found |= module.MODELS
    return found


def published_model(name: str) -> ModelInfo | None:
    """Returns what is known of a model as published, its steps and guidance among it; None where no family knows it.

    Args:
        name: name of the model, or its hub id.
    """
    for family in families().values():
        for key, info in family.models.items():
            if name and name in (key, info.hub_id):
                scale = family.guidance_scale if info.guidance_scale is None else info.guidance_scale
                return replace(info, steps=info.steps or family.steps, guidance_scale=scale)
    return None


def left_out(family_key: str, *, second: bool = False) -> frozenset[str]:
    """Returns the components that pipelines of a family are loaded without.

    Args:
        family_key: key of the family.
        second: whether its second stage is meant.
    """
    if family_key == DEFAULT:
        # Its black would pass for effects.
        return frozenset({"safety_checker"})
    loader = getattr(plugins.load("families", family_key), "SuperResolution" if second else "Family")
    return frozenset(name for name, value in getattr(loader, "left_out", {}).items() if value is None)


def single_file(path: str) -> SingleFile:
    """Returns what a checkpoint in one file is.

    Raises:
        ModelError: it is missing, damaged, or none that a family knows.
    """
    return identify(path, {key: family.layouts for key, family in families().items()})


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
    """Returns the key of the family that a pipeline class belongs to: of one that nobody has looked at the default one.

    Raises:
        UnknownPipelineError: no family knows the class, nor its :func:`plain_class`, and it is known why none can.
    """
    known = {pipeline: key for key, family in families().items() for pipeline in family.pipelines}
    key = known.get(class_name) or known.get(plain_class(class_name))
    if key is None:
        if (why := why_unserved(class_name, brought=class_name in plugins.keys("pipelines"))) is None:
            return DEFAULT
        raise UnknownPipelineError(f'{where} is a "{class_name}", which no family supports: {why}')
    return key


def plain_class(class_name: str) -> str:
    """Returns the pipeline class that draws with the same weights without perturbed-attention guidance.

    A family that says nothing of that guidance draws so: it is a third part of the batch, and no weights belong to it.

    Args:
        class_name: name of a class; the same is returned where it has none of that guidance.
    """
    return re.sub(r"PAG(?=Pipeline$)", "", class_name)
