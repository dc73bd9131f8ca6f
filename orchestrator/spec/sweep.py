"""The models behind ``sweep.yaml``: frozen, strict, and closed to unknown keys."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BeforeValidator,
    ByteSize,
    Discriminator,
    Field,
    Tag,
    model_validator,
)
from pydantic_core import PydanticCustomError

from loco_core.localizers import LocalizeSettings
from loco_core.types import (
    Attention,
    DeviceMap,
    Engine,
    Generation,
    GuidanceHalf,
    Intervention,
    Offload,
    Part,
    Pooled,
    Tokens,
)
from orchestrator.spec.attributes import AttributeSpec
from orchestrator.spec.edit import EditSpec, EvaluateSpec
from orchestrator.spec.places import ModelPlace, Place, ScorerPlace, key_or_file, of_file
from orchestrator.spec.rules import Name, Strict, no_repeats, problem

Seed = Annotated[int, Field(ge=0, lt=2**53)]
"""Below 2**53, so that every JSON reader keeps it exact."""
Dtype = Literal["float32", "float16", "bfloat16"]
Images = Literal["none", "report", "all"]

MAX_SEEDS = 1_000_000


class WorkerNeeds(Strict):
    """What one worker of a model needs.

    Attributes:
        gpus: whole GPUs of one node; 0 runs on the CPU, None on one GPU where the machine or the cluster has any.
        min_gpu_memory: of each GPU, as ``24GiB`` or bytes.
        label_selector: node labels, passed to Ray as they are.
    """

    gpus: Annotated[int, Field(ge=0, le=16)] | None = None
    min_gpu_memory: ByteSize | None = None
    label_selector: dict[str, str] = Field(default_factory=dict)


class EngineSpec(Strict):
    """How a model computes: memory and speed; see `loco_core.types.Engine`.

    Attributes:
        attention: kernel of torch's attention; ``default`` leaves the choice to torch.
        channels_last: memory layout of the denoiser's convolutions; None is what was measured faster.
        compile: compiles what no intervention reaches.
        vae_slicing: decodes one picture at a time; None does so everywhere but on the CPU.
        vae_tiling: decodes large pictures in tiles.
        offload: what waits in the main memory while it is not used.
        device_map: ``balanced`` spreads the pipeline over the GPUs of a worker; None does so where it has several.
    """

    attention: Attention = "default"
    channels_last: bool | None = None
    compile: bool = False
    vae_slicing: bool | None = None
    vae_tiling: bool = False
    offload: Offload = "none"
    device_map: DeviceMap | None = None

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
    """A second stage, which enlarges a model's images.

    Attributes:
        path: folder or hub id of a diffusers pipeline; see `orchestrator.spec.places`.
        revision: of a hub id.
    """

    path: ModelPlace
    revision: Name | None = None

    def __str__(self) -> str:
        return self.path if self.revision is None else f"{self.path} @ {self.revision}"


def _by_path(value: Any) -> Any:
    return {"path": value} if isinstance(value, str) else value


class ModelSpec(Strict):
    """A model of the sweep.

    Attributes:
        id: name in the results; a bundled model's name, or any name where ``path`` is given.
        path: folder or hub id of a diffusers pipeline; None takes the model that ``id`` names.
        revision: of a hub id.
        dtype: of weights and activations; changes the pixels.
        engine: how it computes; frozen as the dtype is, but for where weights wait.
        guidance_scale: of this model; None is the sweep's. Distilled models need another than those beside them.
        super_resolution: the second stage, in families that have one; a bare path stands for ``{path: ...}``. None
            leaves images as the model draws them.
        worker: what a worker needs.
    """

    id: Name
    path: ModelPlace | None = None
    revision: Name | None = None
    dtype: Dtype = "float32"
    engine: EngineSpec = EngineSpec()
    guidance_scale: Annotated[float, Field(ge=0, le=1000)] | None = None
    super_resolution: Annotated[SuperResolutionSpec | None, BeforeValidator(_by_path)] = None
    worker: WorkerNeeds = WorkerNeeds()

    @property
    def how(self) -> Engine:
        """The engine as the science knows it: several GPUs share a model unless it says otherwise."""
        several = self.worker.gpus is not None and self.worker.gpus > 1
        device_map = self.engine.device_map or ("balanced" if several else "none")
        return Engine(**{**self.engine.model_dump(), "device_map": device_map})

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


class WindowsSpec(Strict):
    """Windows of cross-attention sites.

    Attributes:
        sizes: how many sites; every size is swept. None takes sizes up to ``localize.max_share`` of each model's sites.
        stride: step between starts, from site 0.
    """

    sizes: Annotated[tuple[Annotated[int, Field(ge=1)], ...], Field(min_length=1)] | None = None
    stride: Annotated[int, Field(ge=1)] = 1

    @model_validator(mode="after")
    def _check(self) -> WindowsSpec:
        no_repeats(("sizes",), self.sizes or (), "size")
        return self


class GenerationSpec(Strict):
    """How images are generated. All but ``batch_size`` change the pixels.

    Attributes:
        steps: denoising steps.
        guidance_scale: of classifier-free guidance.
        height: in pixels; None is the model's own.
        width: in pixels; None is the model's own.
        scheduler: diffusers' class name; None is the model's own.
        batch_size: rows a forward pass carries; ``auto`` measures it once a model, on a worker of the sweep.
    """

    steps: Annotated[int, Field(ge=1, le=1000)] = 50
    guidance_scale: Annotated[float, Field(ge=0, le=1000)] = 7.5
    height: Annotated[int, Field(ge=8, multiple_of=8)] | None = None
    width: Annotated[int, Field(ge=8, multiple_of=8)] | None = None
    scheduler: Name | None = None
    batch_size: Annotated[
        Annotated[Annotated[int, Field(ge=1, le=4096)], Tag("rows")] | Annotated[Literal["auto"], Tag("word")],
        Discriminator(lambda value: "word" if isinstance(value, str) else "rows"),
    ] = 8

    @property
    def settings(self) -> Generation:
        """What changes the pixels, without the batch size."""
        return Generation(**self.model_dump(exclude={"batch_size"}))


class ControlsSpec(Strict):
    """Cells that make a score mean something; clean images and the donor outright are always run.

    Attributes:
        identity: the prompt's own encoding swapped in at every site; must change nothing.
        all_sites: the donor at every site.
        complement: for every window, the donor at all sites outside it.
        random: random sets of sites a window size; the first N of a fixed sequence.
    """

    identity: bool = True
    all_sites: bool = True
    complement: bool = False
    random: Annotated[int, Field(ge=0, le=1000)] = 2


class InterventionSpec(Strict):
    """A set of options under which every window is swept; the default is the paper's own.

    Attributes:
        part: K and V, or one of them.
        steps: denoising steps ``[start, end)`` at which sites read the donor; None is all.
        tokens: which token positions come from the donor.
        guidance_half: which half of classifier-free guidance reads the donor.
        pooled: which sentence the pooled text comes from, in families that have one beside cross-attention.
    """

    part: Part = "kv"
    steps: tuple[Annotated[int, Field(ge=0)], Annotated[int, Field(ge=1)]] | None = None
    tokens: Tokens = "all"
    guidance_half: GuidanceHalf = "conditional"
    pooled: Pooled = "prompt"

    def at(self, sites: tuple[int, ...]) -> Intervention:
        """Returns the intervention with these options at the given sites."""
        start, end = self.steps or (0, None)
        return Intervention(sites, self.part, start, end, self.tokens, self.guidance_half, self.pooled)


def _attribute_name(value: str) -> str:
    kind, slash, name = value.partition("/")
    if not (kind.strip() and slash and name.strip()):
        raise PydanticCustomError(
            "rule", f"{value!r} is wrong; expected a name such as style/NAME, or an attribute written out"
        )
    return value


def _model_by_id(value: Any) -> Any:
    return {"id": value} if isinstance(value, str) else value


def _first_seeds(value: Any) -> Any:
    if isinstance(value, int) and not isinstance(value, bool):
        if not 1 <= value <= MAX_SEEDS:
            raise PydanticCustomError("rule", f"expected 1 to {MAX_SEEDS:,} seeds, or a list of seeds")
        return tuple(range(value))
    if not isinstance(value, list | tuple):
        raise PydanticCustomError("rule", "expected how many seeds, or a list of seeds")
    return tuple(value)


def _localizers(settings: LocalizeSettings, folder: str) -> LocalizeSettings:
    main, *others = (key_or_file(name, folder) for name in settings.localizers)
    return settings.model_copy(update={"localizer": main, "beside": tuple(others)})


class SweepSpec(Strict):
    """A sweep as declared: models x attributes x windows x prompts x seeds.

    Attributes:
        name: of the sweep; part of its identity.
        models: what is swept; a bare id stands for ``{id: ...}``.
        attributes: bundled names (``kind/NAME``), or attributes written out.
        windows: of sites.
        prompts: how many records of each attribute, in their order.
        seeds: of the initial noise; N stands for ``0 .. N-1``, so that a larger N only adds.
        generation: settings.
        scorer: name of a bundled scorer or of another file of the drawer, a Python file, or name or folder of a
            transformers CLIP model.
        localize: rules of the localizer.
        controls: which controls are run.
        interventions: sets of options under which every window is swept.
        edit: which edits are fitted where an attribute is localized; None fits none.
        evaluate: on what edits are measured.
        images: which images are kept.
        results: folder, from the sweep's file on, or ``s3://`` address; None leaves it to the command.
        reproduces: the preset whose published values the report shows beside those that are measured.
    """

    name: Name
    models: Annotated[tuple[Annotated[ModelSpec, BeforeValidator(_model_by_id)], ...], Field(min_length=1)]
    attributes: Annotated[
        tuple[
            Annotated[
                Annotated[Annotated[Name, AfterValidator(_attribute_name)], Tag("name")]
                | Annotated[AttributeSpec, Tag("inline")],
                Discriminator(lambda value: "name" if isinstance(value, str) else "inline"),
            ],
            ...,
        ],
        Field(min_length=1),
    ]
    windows: WindowsSpec = WindowsSpec()
    prompts: Annotated[int, Field(ge=1)] = 8
    seeds: Annotated[tuple[Seed, ...], BeforeValidator(_first_seeds), Field(min_length=1)] = (0, 1, 2, 3)
    generation: GenerationSpec = GenerationSpec()
    scorer: ScorerPlace
    localize: Annotated[LocalizeSettings, of_file(_localizers)] = LocalizeSettings()
    controls: ControlsSpec = ControlsSpec()
    interventions: Annotated[tuple[InterventionSpec, ...], Field(min_length=1)] = (InterventionSpec(),)
    edit: EditSpec | None = None
    evaluate: EvaluateSpec = EvaluateSpec()
    images: Images = "report"
    results: Place | None = None
    reproduces: Name | None = None

    def _guidance_scales(self) -> list[float]:
        own = [model.guidance_scale for model in self.models]
        return [self.generation.guidance_scale if scale is None else scale for scale in own]

    def sizes(self, n_sites: int) -> tuple[int, ...]:
        """Returns the window sizes that are swept in a model of so many sites, smallest first."""
        return tuple(sorted(self.windows.sizes or self.localize.sizes(n_sites)))

    @property
    def files(self) -> tuple[str, ...]:
        """The Python files that it names, each once: they are executed where it runs."""
        editors = self.edit.editors if self.edit else ()
        texts = (name for item in self.attributes if isinstance(item, AttributeSpec) for name in item.published)
        named = dict.fromkeys((self.scorer, *self.localize.localizers, *editors, *texts))
        return tuple(name for name in named if name.endswith(".py"))

    @model_validator(mode="after")
    def _check(self) -> SweepSpec:
        no_repeats(("models",), (model.id for model in self.models), "model")
        labels = (a if isinstance(a, str) else a.label for a in self.attributes)
        no_repeats(("attributes",), labels, "attribute")
        no_repeats(("seeds",), self.seeds, "seed")
        no_repeats(("interventions",), self.interventions, "intervention")
        for i, attribute in enumerate(self.attributes):
            if isinstance(attribute, AttributeSpec) and len(attribute.records) < self.prompts:
                count = len(attribute.records)
                message = f"{count} records for prompts: {self.prompts}; expected at least {self.prompts} records"
                raise problem(("attributes", i, "records"), message)
        for i, option in enumerate(self.interventions):
            if option.guidance_half != "conditional" and min(self._guidance_scales()) <= 1:
                message = f"{option.guidance_half!r} needs classifier-free guidance; expected a guidance_scale above 1"
                raise problem(("interventions", i, "guidance_half"), message)
            if option.steps and not option.steps[0] < option.steps[1] <= self.generation.steps:
                message = f"{list(option.steps)} is wrong; expected [start, end) with end at most the"
                raise problem(("interventions", i, "steps"), f"{message} {self.generation.steps} steps of generation")
        return self
