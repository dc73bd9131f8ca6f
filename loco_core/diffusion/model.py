"""How the models of a family are loaded and prompted: beside its facts, a family's file exports a class ``Family``.

What is known of families without torch stands in :mod:`loco_core.diffusion.facts`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

from loco_core import plugins
from loco_core.diffusion.donor import Donor, donor_projections
from loco_core.diffusion.facts import DEFAULT, FamilyInfo
from loco_core.diffusion.loading import load_pipeline as load_pipeline
from loco_core.diffusion.single_files import identify, is_single_file
from loco_core.diffusion.site_check import check_sites
from loco_core.diffusion.sites import record_sites
from loco_core.errors import ModelError, OutOfMemoryError
from loco_core.types import Engine, Extras, Site

if TYPE_CHECKING:
    import torch

REMEMBERED = 8
"""Lists of prompts whose encodings are kept; one of three prompts weighs 13 MB with T5-XXL."""


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

    def drawing(
        self,
        pipeline: Any,
        texts: PromptEmbeds,
        pooled: PromptEmbeds,
        negative: tuple[PromptEmbeds, PromptEmbeds] | None,
    ) -> AbstractContextManager[None]:
        """Returns what is entered around a call of the pipeline; see :meth:`arguments`."""

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
        """Returns what is entered while rows are denoised whose texts have padding, or lengths of their own.

        Args:
            pipeline: the pipeline.
            own: says ``(rows, tokens)`` which positions hold tokens of the rows' own texts in the call that runs now.
        """


class Attackable(Family, Protocol):
    """What a family has beside, whose models attacks learn from and start from (`FamilyInfo.attackable`)."""

    def read(self, pipeline: Any, prompts: list[str]) -> PromptEmbeds:
        """Encodes prompts as :meth:`Family.encode` does, with gradients where torch keeps them."""

    def predict(self, pipeline: Any, noisy: torch.Tensor, times: torch.Tensor, texts: PromptEmbeds) -> torch.Tensor:
        """Runs the denoiser.

        Args:
            pipeline: the pipeline.
            noisy: ``(n, channels, h, w)`` noised latents.
            times: ``(n,)`` int64 times of training.
            texts: ``n`` encoded prompts.

        Returns:
            ``(n, channels, h, w)`` what the scheduler's ``prediction_type`` says: the noise, or the velocity.
        """

    def latents(self, pipeline: Any, pictures: torch.Tensor) -> torch.Tensor:
        """Returns the latents ``(n, channels, h, w)`` of pictures ``(n, 3, height, width)`` in [0, 1]."""


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
        donor: K and V projections of another model by their paths, for rows whose source is ``weights``; None where
            there is none.
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
    donor: Mapping[str, torch.nn.Module] | None = field(default=None, repr=False)
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
    donor: Donor | None = None,
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
        donor: another model, whose K and V projections of the sites are kept beside it; None for none.

    Raises:
        ModelError: it cannot be loaded, has no second stage, cannot run as the engine says, its K and V cannot be
            told apart, it runs other sites than its configuration tells, or its donor has others.
        OutOfMemoryError: it does not fit.
    """
    import torch

    from loco_core.diffusion.engine import check, compile_between, kernels, place
    from loco_core.diffusion.packed import refiners

    engine = engine or Engine()
    check(engine, device)
    module = _module_of(family_key)
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
            facts, found = _find_sites(family_key, family, facts, pipeline, path)
    if engine.compile:
        compile_between(denoiser, found, refiners(denoiser, facts.refiners))
        if second is not None:
            compile_between(family.denoiser(second.pipeline), ())
    others = None if donor is None else donor_projections(donor, found, denoiser, facts, dtype)
    return LoadedModel(pipeline, family, facts, found, device, dtype, engine, super_resolution=second, donor=others)


def _module_of(family_key: str) -> Any:
    """Returns the file of a family, or the package of the default one."""
    if family_key == DEFAULT:
        from loco_core.diffusion.default import family

        return family
    return plugins.load("families", family_key)


def _find_sites(
    family_key: str, family: Any, facts: FamilyInfo, pipeline: Any, path: str
) -> tuple[FamilyInfo, tuple[Site, ...]]:
    """Returns facts and sites of a pipeline, which of the default family the pipeline alone can tell."""
    if family_key == DEFAULT:
        found = family.probe(pipeline, path)
        return family.profile.facts, found
    found = record_sites(family.denoiser(pipeline), partial(pass_of, family, pipeline), facts.refiners)
    config: Any = family.denoiser(pipeline).config
    check_sites([site.name for site in found], facts.site_names, config, path)
    return facts, found


def pass_of(family: Family, pipeline: Any, tokens: int) -> int:
    """Runs the denoiser once with a text of about so many tokens, and returns how many it had."""
    text = family.blank(pipeline, tokens)
    family.forward(pipeline, text)
    return text.embeds.shape[1]
