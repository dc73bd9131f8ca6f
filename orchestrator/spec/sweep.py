"""The models behind ``sweep.yaml``: frozen, strict, and closed to unknown keys."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ByteSize,
    ConfigDict,
    Discriminator,
    Field,
    StringConstraints,
    Tag,
    model_validator,
)
from pydantic_core import PydanticCustomError

from loco_core.attributes import text_pairs
from loco_core.localizers import LocalizeSettings
from loco_core.types import (
    Attention,
    Attribute,
    DeviceMap,
    Engine,
    Generation,
    GuidanceHalf,
    Intervention,
    Mode,
    Offload,
    Part,
    Pooled,
    PromptRecord,
    PublishedTexts,
    Tokens,
)
from orchestrator.spec.edit import EditSpec, EvaluateSpec

Text = Annotated[str, StringConstraints(min_length=1, max_length=2000)]
Name = Annotated[str, StringConstraints(min_length=1, max_length=300, pattern=r"^[^\x00-\x1f\x7f]+$")]
Seed = Annotated[int, Field(ge=0, lt=2**53)]
"""Below 2**53, so that every JSON reader keeps it exact."""
Dtype = Literal["float32", "float16", "bfloat16"]
Images = Literal["none", "report", "all"]

MAX_SEEDS = 1_000_000


def _problem(loc: Iterable[str | int], message: str) -> PydanticCustomError:
    """Returns an error of a rule over several fields that points at one of them."""
    return PydanticCustomError("rule", "{message}", {"message": message, "loc": tuple(loc)})


def _no_repeats(loc: str, values: Iterable[Hashable], what: str) -> None:
    repeated = [value for value, count in Counter(values).items() if count > 1]
    if repeated:
        raise _problem((loc,), f"{what} {repeated[0]!r} is given more than once; expected each once")


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class WorkerNeeds(_Strict):
    """What one worker of a model needs.

    Attributes:
        gpus: whole GPUs of one node; 0 runs on the CPU, None on one GPU where the machine or the cluster has any.
        min_gpu_memory: of each GPU, as ``24GiB`` or bytes.
        label_selector: node labels, passed to Ray as they are.
    """

    gpus: Annotated[int, Field(ge=0, le=16)] | None = None
    min_gpu_memory: ByteSize | None = None
    label_selector: dict[str, str] = Field(default_factory=dict)


class EngineSpec(_Strict):
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
            raise _problem(("device_map",), message)
        if self.offload == "sequential" and self.compile:
            message = "compiled modules would read weights that are not there; expected offload: model, or none"
            raise _problem(("compile",), message)
        return self


class SuperResolutionSpec(_Strict):
    """A second stage, which enlarges a model's images.

    Attributes:
        path: folder or hub id of a diffusers pipeline.
        revision: of a hub id.
    """

    path: Text
    revision: Text | None = None

    def __str__(self) -> str:
        return self.path if self.revision is None else f"{self.path} @ {self.revision}"


def _by_path(value: Any) -> Any:
    return {"path": value} if isinstance(value, str) else value


class ModelSpec(_Strict):
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
    path: Text | None = None
    revision: Text | None = None
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
            raise _problem(("engine", "device_map"), message)
        if gpus is not None and gpus > 1 and engine.device_map == "none":
            message = (
                f"'none' leaves {gpus - 1} of {gpus} GPUs of a worker idle; expected 'balanced', or worker.gpus: 1"
            )
            raise _problem(("engine", "device_map"), message)
        if gpus is not None and gpus != 1 and engine.offload != "none":
            message = f"{engine.offload!r} keeps one GPU busy; expected worker.gpus: 1, not {gpus}"
            raise _problem(("engine", "offload"), message)
        return self


class RecordSpec(_Strict):
    """One source prompt with its donor and the texts that score both; see `loco_core.types.PromptRecord`.

    Raises:
        PydanticCustomError: prompt and donor, or score text and donor text, are the same: nothing could be measured.
    """

    prompt: Text
    donor: Text
    score_text: Text
    donor_text: Text
    content_text: Text
    template_id: str = ""

    @model_validator(mode="after")
    def _check(self) -> RecordSpec:
        for name, other in (("donor", "prompt"), ("donor_text", "score_text")):
            if _words(getattr(self, name)) == _words(getattr(self, other)):
                message = f"says what {other} says, so that nothing can be measured; expected another text"
                raise _problem((name,), message)
        return self


def _words(text: str) -> tuple[str, ...]:
    """The words of a text, without what a reader would not tell apart."""
    return tuple(word.casefold() for part in text.split() if (word := part.strip(".,;:!?")))


class PublishedTextsSpec(_Strict):
    """Texts that a published edit is fitted on; see `loco_core.types.PublishedTexts`.

    Attributes:
        keys: texts whose last token is edited.
        anchors: what they are to read as: one for all keys, or one a key.
    """

    keys: Annotated[tuple[Text, ...], Field(min_length=1)]
    anchors: Annotated[tuple[Text, ...], Field(min_length=1)]

    @model_validator(mode="after")
    def _check(self) -> PublishedTextsSpec:
        if len(self.anchors) not in (1, len(self.keys)):
            message = f"{len(self.anchors)} anchors for {len(self.keys)} keys; expected one for all, or one a key"
            raise _problem(("anchors",), message)
        same = [key for key, anchor in text_pairs(self.keys, self.anchors) if key.split() == anchor.split()]
        if same:
            raise _problem(("keys",), f"{same[0]!r} equals its anchor; nothing to edit")
        return self


class AttributeSpec(_Strict):
    """An attribute written out in the sweep file.

    Attributes:
        kind: style, object, fact, ...
        name: of the attribute within its kind.
        mode: whether the donor drops the attribute or replaces it.
        records: prompts, in the order in which ``prompts: N`` takes them.
        published: texts of published edits, by editor.
    """

    kind: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]+$", max_length=60)]
    name: Name
    mode: Mode
    records: Annotated[tuple[RecordSpec, ...], Field(min_length=1)]
    published: dict[str, PublishedTextsSpec] = Field(default_factory=dict)

    @property
    def label(self) -> str:
        """``kind/name``, as in the results."""
        return f"{self.kind}/{self.name}"

    @property
    def attribute(self) -> Attribute:
        """The attribute as the science knows it."""
        records = tuple(PromptRecord(**record.model_dump()) for record in self.records)
        published = tuple(
            PublishedTexts(editor, text_pairs(said.keys, said.anchors)) for editor, said in self.published.items()
        )
        return Attribute(self.kind, self.name, self.mode, records, published)

    @model_validator(mode="after")
    def _check(self) -> AttributeSpec:
        # Claims count prompts: one that is given twice would be evidence twice.
        _no_repeats("records", (" ".join(_words(record.prompt)) for record in self.records), "the prompt")
        return self


class WindowsSpec(_Strict):
    """Windows of cross-attention sites.

    Attributes:
        sizes: how many sites; every size is swept. None takes sizes up to ``localize.max_share`` of each model's sites.
        stride: step between starts, from site 0.
    """

    sizes: Annotated[tuple[Annotated[int, Field(ge=1)], ...], Field(min_length=1)] | None = None
    stride: Annotated[int, Field(ge=1)] = 1

    @model_validator(mode="after")
    def _check(self) -> WindowsSpec:
        _no_repeats("sizes", self.sizes or (), "size")
        return self


class GenerationSpec(_Strict):
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


class ControlsSpec(_Strict):
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


class InterventionSpec(_Strict):
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


class SweepSpec(_Strict):
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
        results: folder or ``s3://`` address; None leaves it to the command.
        reproduces: the preset whose published values the report shows beside those that are measured.
    """

    name: Name
    models: Annotated[tuple[Annotated[ModelSpec, BeforeValidator(_model_by_id)], ...], Field(min_length=1)]
    attributes: Annotated[
        tuple[
            Annotated[
                Annotated[Annotated[str, AfterValidator(_attribute_name)], Tag("name")]
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
    scorer: Name
    localize: LocalizeSettings = LocalizeSettings()
    controls: ControlsSpec = ControlsSpec()
    interventions: Annotated[tuple[InterventionSpec, ...], Field(min_length=1)] = (InterventionSpec(),)
    edit: EditSpec | None = None
    evaluate: EvaluateSpec = EvaluateSpec()
    images: Images = "report"
    results: Text | None = None
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
        _no_repeats("models", (model.id for model in self.models), "model")
        labels = (a if isinstance(a, str) else a.label for a in self.attributes)
        _no_repeats("attributes", labels, "attribute")
        _no_repeats("seeds", self.seeds, "seed")
        _no_repeats("interventions", self.interventions, "intervention")
        for i, attribute in enumerate(self.attributes):
            if isinstance(attribute, AttributeSpec) and len(attribute.records) < self.prompts:
                count = len(attribute.records)
                message = f"{count} records for prompts: {self.prompts}; expected at least {self.prompts} records"
                raise _problem(("attributes", i, "records"), message)
        for i, option in enumerate(self.interventions):
            if option.guidance_half != "conditional" and min(self._guidance_scales()) <= 1:
                message = f"{option.guidance_half!r} needs classifier-free guidance; expected a guidance_scale above 1"
                raise _problem(("interventions", i, "guidance_half"), message)
            if option.steps and not option.steps[0] < option.steps[1] <= self.generation.steps:
                message = f"{list(option.steps)} is wrong; expected [start, end) with end at most the"
                raise _problem(("interventions", i, "steps"), f"{message} {self.generation.steps} steps of generation")
        return self
