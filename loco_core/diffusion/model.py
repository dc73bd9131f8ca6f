"""The families of models, one file each: torch-free facts about them, and how to load and prompt them.

A family file exports ``INFO`` (a :class:`FamilyInfo`) and a class ``Family`` that fulfils :class:`Family`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

from loco_core import plugins
from loco_core.diffusion.loading import load_pipeline as load_pipeline
from loco_core.diffusion.single_files import Layout, SingleFile, identify, is_single_file
from loco_core.diffusion.site_check import check_sites
from loco_core.diffusion.sites import record_sites
from loco_core.diffusion.tokens import Reading
from loco_core.diffusion.unserved import why_unserved
from loco_core.errors import ModelError, OutOfMemoryError, SpecError, UnknownPipelineError, did_you_mean
from loco_core.types import Engine, Extras, Site

if TYPE_CHECKING:
    import torch

REMEMBERED = 8
"""Lists of prompts whose encodings are kept; one of three prompts weighs 13 MB with T5-XXL."""

Half = Literal["conditional", "unconditional"]
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
        dtype: format of the denoiser's weights as published, in which it is loaded where nobody says another.
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
        refiners: beginning of the module paths of attentions that refine the text alone before it meets the image, and
            take no mask of padding that they could be given; empty where there are none.
        unguided_scale: largest guidance scale at which the pipeline runs no guidance.
        guidance_example: a model with the scale that it was distilled for, where there is no unconditional half.
        channels_last: whether the denoiser was measured faster in that memory layout on a CPU.
        super_resolution_class: name of the diffusers pipeline class that may enlarge its images as a second stage; the
            family's file exports a class ``SuperResolution`` (a :class:`SuperResolution`) then. Empty where there is
            none.
        super_resolution_cost: seconds of an image of both stages, of the first alone one.
        reading: function that says how much of a prompt is read, from the index of a pipeline folder; None where only
            the loaded pipeline can tell.
        steps: denoising steps of an image where a sweep of one of these models says none: what its pipeline takes
            where it is told none.
        guidance_scale: guidance scale likewise.
        layouts: how single files of its models name their tensors; empty where there are none.
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


@dataclass(frozen=True)
class PromptEmbeds:
    """Encoded prompts.

    Attributes:
        embeds: ``(prompts, tokens, width)``.
        ids: ``(prompts, tokens)`` int64 token ids; equal ids at a position stand for the same word.
        words: ``(prompts, tokens)`` bool, up to the last word of each prompt; false at its end and at padding.
        mask: ``(prompts, tokens)`` int64, 1 where cross-attention may look; None where it looks at all positions.
        pooled: ``(prompts, pooled width)``; None where the family has none beside ``embeds``.
        segments: numbers of tokens of the encoders that stand behind each other; they sum up to ``tokens``.
    """

    embeds: torch.Tensor
    ids: torch.Tensor
    words: torch.Tensor
    mask: torch.Tensor | None = None
    pooled: torch.Tensor | None = None
    segments: tuple[int, ...] = ()

    def take(self, numbers: Sequence[int]) -> PromptEmbeds:
        """Returns prompts by their numbers, which may repeat."""
        return PromptEmbeds(
            self.embeds[numbers],
            self.ids[numbers],
            self.words[numbers],
            None if self.mask is None else self.mask[numbers],
            None if self.pooled is None else self.pooled[numbers],
            self.segments,
        )


class Family(Protocol):
    """How one family is loaded and prompted."""

    def load(self, path: str, revision: str | None, dtype: str, device_map: str | None, extras: Extras | None) -> Any:
        """Returns the diffusers pipeline in the main memory, from safetensors only; see :func:`load_pipeline`."""

    def denoiser(self, pipeline: Any) -> torch.nn.Module:
        """Returns the module whose cross-attention is intervened on."""

    def blank(self, pipeline: Any, tokens: int = 2) -> PromptEmbeds:
        """Returns zeros in place of an encoded prompt, which sites are found with.

        Args:
            pipeline: the pipeline.
            tokens: how many it is to have; a denoiser that reads texts of one length alone may have others.
        """

    def encode(self, pipeline: Any, prompts: list[str]) -> PromptEmbeds:
        """Encodes prompts; the empty one as the pipeline does where it is given no negative prompt."""

    def forward(self, pipeline: Any, prompts: PromptEmbeds) -> None:
        """Runs the denoiser once, on noise of the smallest size, one row per prompt."""

    def arguments(
        self,
        pipeline: Any,
        texts: PromptEmbeds,
        pooled: PromptEmbeds,
        negative: tuple[PromptEmbeds, PromptEmbeds] | None,
    ) -> dict[str, Any]:
        """Returns the arguments of the pipeline's call that carry prompts, one row per image.

        Args:
            pipeline: the pipeline.
            texts: embeddings that the denoiser reads.
            pooled: sentence that its pooled text comes from.
            negative: both of the unconditional half; None where there is none.
        """

    def guide(self, pipeline: Any, argument: str, scale: float, *, guided: bool) -> dict[str, Any]:
        """Returns the arguments of the pipeline's call that carry the guidance scale, or gives it to a part of it.

        Args:
            pipeline: the pipeline.
            argument: the family's ``scale_argument``.
            scale: guidance scale.
            guided: whether there is an unconditional half.
        """

    def images(self, output: torch.Tensor) -> torch.Tensor:
        """Returns the pipeline's tensors as images in [0, 1]."""

    @property
    def mask_argument(self) -> str:
        """Name of the argument that an attention at a site takes its mask of padding by.

        Empty where texts have lengths of their own, and what stands in front of shorter ones is hidden by
        :mod:`loco_core.diffusion.packed`.
        """

    def attention_mask(self, own: torch.Tensor, seen: torch.Tensor, given: torch.Tensor | None) -> torch.Tensor | None:
        """Returns what an attention at a site is given as its mask.

        Args:
            own: ``(rows, tokens)`` 1 where a row's own text is no padding.
            seen: the same of the text that K comes from.
            given: what the denoiser gives.
        """

    def placing(self, pipeline: Any, own: Callable[[], torch.Tensor]) -> AbstractContextManager[None]:
        """Returns what is entered while rows whose texts have lengths of their own are denoised.

        Args:
            pipeline: the pipeline.
            own: says ``(rows, tokens)`` which positions hold tokens of the rows' own texts in the call that runs now.
        """


class SuperResolution(Protocol):
    """The second stage of a family, loaded as its pipelines are: a pipeline that enlarges what the first one draws.

    It is never intervened on and never edited, and no row's prompt reaches it: what it draws follows from the pixels
    that it is given and the seed.

    Attributes:
        pipeline: the diffusers pipeline.
    """

    pipeline: Any

    def __init__(self, path: str, revision: str | None, dtype: str, device_map: str | None) -> None:
        """Loads the pipeline into the main memory; see :func:`load_pipeline`."""

    def factor(self, model: LoadedModel) -> int:
        """Returns how many times larger its images are than those of the first stage."""

    def enlarge(self, model: LoadedModel, images: torch.Tensor, seeds: Sequence[int], steps: int) -> torch.Tensor:
        """Enlarges images.

        Args:
            model: the first stage, which encodes texts for both.
            images: ``(n, 3, height, width)`` tensors of the first stage's pipeline, as it gives them.
            seeds: seeds of each image's noise.
            steps: denoising steps.

        Returns:
            tensors of the same kind, which :meth:`Family.images` takes.
        """


@dataclass
class Running:
    """What the denoiser's pass that runs now is about.

    Attributes:
        conditional: ``(rows,)`` bool, which rows of the batch are of the conditional half of guidance; None where
            nobody says so, as in a pipeline's own call.
    """

    conditional: torch.Tensor | None = None


@dataclass(frozen=True)
class LoadedModel:
    """A pipeline on its device, with its sites.

    Attributes:
        pipeline: the diffusers pipeline.
        family: its family.
        facts: facts of the family.
        sites: its sites in execution order.
        device: device that it computes on.
        dtype: dtype of its weights.
        engine: settings of how it computes.
        encoded: prompts that were encoded before; see :meth:`encode`.
        super_resolution: second stage that enlarges its images; None leaves them as they are.
        running: call that is running now, as `loco_core.diffusion.routing` says.
    """

    pipeline: Any = field(repr=False)
    family: Family = field(repr=False)
    facts: FamilyInfo = field(repr=False)
    sites: tuple[Site, ...]
    device: str
    dtype: str
    engine: Engine = field(default_factory=Engine)
    encoded: dict[tuple[str, ...], PromptEmbeds] = field(default_factory=dict, repr=False, compare=False)
    super_resolution: SuperResolution | None = field(default=None, repr=False)
    running: Running = field(default_factory=Running, repr=False, compare=False)

    @property
    def enlargement(self) -> int:
        """How many times larger its images are than what its pipeline draws."""
        return self.super_resolution.factor(self) if self.super_resolution else 1

    def encode(self, prompts: Sequence[str]) -> PromptEmbeds:
        """Encodes prompts, or remembers them: the batches of a unit read the same few.

        On the bundled model this saves a hundredth of a batch of eight; a T5-XXL that is offloaded would be moved to
        the GPU and back for every batch. Remembered are the last few lists as a whole, as one sentence encoded beside
        others differs from itself in the last bits. Whatever changes weights must clear ``encoded``.
        """
        texts = tuple(prompts)
        found = self.encoded.pop(texts, None) or self.family.encode(self.pipeline, list(texts))
        self.encoded[texts] = found
        while len(self.encoded) > REMEMBERED:
            del self.encoded[next(iter(self.encoded))]
        return found


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
    """Returns the key of the family that a pipeline class belongs to.

    Raises:
        UnknownPipelineError: no family knows the class.
    """
    known = {pipeline: key for key, family in families().items() for pipeline in family.pipelines}
    if class_name not in known:
        why = why_unserved(class_name)
        said = f": {why}" if why else did_you_mean(class_name, known)
        raise UnknownPipelineError(f'{where} is a "{class_name}", which no family supports{said}')
    return known[class_name]


def load_model(
    family_key: str,
    path: str,
    revision: str | None,
    dtype: str,
    device: str,
    engine: Engine | None = None,
    super_resolution: tuple[str, str | None] | None = None,
    *,
    sites: bool = True,
    extras: Extras | None = None,
) -> LoadedModel:
    """Loads a pipeline through its family's file.

    Args:
        family_key: key of the family, or its file.
        path: a folder, a hub id, or a checkpoint in one file.
        revision: the hub's commit, of a single file that of its configuration; None for a folder.
        dtype: ``float32``, ``float16`` or ``bfloat16``.
        device: e.g. ``cuda`` or ``cpu``.
        engine: settings of how it computes, a second stage too; None takes the defaults.
        super_resolution: path and revision of a second stage, of the class that the family's facts name; None loads
            none.
        sites: whether its sites are looked for, by a pass that reads all weights; without it weights that are loaded
            in the dtype of their files stay on the disk until somebody looks at them.
        extras: what it is loaded with beside its path; None for nothing.

    Raises:
        ModelError: it cannot be loaded, has no second stage, cannot run as the engine says, its K and V cannot be
            told apart, or it runs other sites than its configuration tells.
        OutOfMemoryError: it does not fit.
    """
    import torch

    from loco_core.diffusion.engine import check, compile_between, kernels, place
    from loco_core.diffusion.packed import refiners

    engine = engine or Engine()
    check(engine, device)
    module = plugins.load("families", family_key)
    family: Family = module.Family()
    facts: FamilyInfo = module.INFO
    if super_resolution is not None and not facts.super_resolution_class:
        raise ModelError(f"{path} ({family_key}) has no second stage; expected none, not {super_resolution[0]}")
    if engine.channels_last is None:
        engine = replace(engine, channels_last=facts.channels_last and device == "cpu")
    device_map = "balanced" if engine.device_map == "balanced" else None
    second: SuperResolution | None = None
    if is_single_file(path):
        parts = identify(path, {family_key: facts.layouts}).parts
        extras = replace(extras or Extras(), parts=parts)
    try:
        pipeline = family.load(path, revision, dtype, device_map, extras)
        denoiser = family.denoiser(pipeline)
        place(pipeline, denoiser, engine, device)
        if super_resolution is not None:
            second = module.SuperResolution(*super_resolution, dtype, device_map)
            place(second.pipeline, family.denoiser(second.pipeline), engine, device)
    except torch.OutOfMemoryError as error:
        both = path if super_resolution is None else f"{path} with {super_resolution[0]}"
        raise OutOfMemoryError(
            f"{both} does not fit into the memory of {device} in {dtype}; expected a larger device, "
            + ("dtype: bfloat16, " if dtype == "float32" else "")
            + "engine.offload, or several GPUs with engine.device_map: balanced"
        ) from error
    found: tuple[Site, ...] = ()
    if sites:
        with torch.no_grad(), kernels(engine.attention, dtype):
            found = record_sites(denoiser, partial(pass_of, family, pipeline))
        config: Any = denoiser.config
        check_sites([site.name for site in found], facts.site_names, config, path)
    if engine.compile:
        compile_between(denoiser, found, refiners(denoiser, facts.refiners))
        if second is not None:
            compile_between(family.denoiser(second.pipeline), ())
    return LoadedModel(pipeline, family, facts, found, device, dtype, engine, super_resolution=second)


def pass_of(family: Family, pipeline: Any, tokens: int) -> int:
    """Runs the denoiser once with a text of about so many tokens, and returns how many it had."""
    text = family.blank(pipeline, tokens)
    family.forward(pipeline, text)
    return text.embeds.shape[1]
