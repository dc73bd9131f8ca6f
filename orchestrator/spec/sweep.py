"""The models behind ``sweep.yaml``: frozen, strict, and closed to unknown keys."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Discriminator,
    Field,
    Tag,
    model_validator,
)
from pydantic_core import PydanticCustomError

from loco_core.localization.base import LocalizeSettings
from loco_core.types import (
    Generation,
    GuidanceHalf,
    Intervention,
    Margin,
    Part,
    Pooled,
    Source,
    Tokens,
)
from orchestrator.spec.attributes import AttributeSpec
from orchestrator.spec.beside import check_donors, of_weights
from orchestrator.spec.controls import ControlsSpec
from orchestrator.spec.edit import EditSpec, EvaluateSpec, check_groups
from orchestrator.spec.model import Model, donor_of, guided, published_of
from orchestrator.spec.places import ResultsPlace, ScorerPlace, key_or_file, of_file
from orchestrator.spec.rules import Name, Strict, listed, no_repeats, problem, tuples
from orchestrator.spec.watching import Hooks, NotifySpec, choice, notified

Seed = Annotated[int, Field(ge=0, lt=2**53)]
"""Below 2**53, so that every JSON reader keeps it exact."""
Images = Literal["none", "report", "all"]

MAX_SEEDS = 1_000_000


class WindowsSpec(Strict):
    """Windows of adjacent cross-attention sites."""

    sizes: Annotated[tuple[Annotated[int, Field(ge=1)], ...], Field(min_length=1)] | None = Field(
        None,
        description="Window sizes, as numbers of sites; every size is swept. Default: sizes up to `localize.max_share` "
        "of each model's sites.",
        examples=[[1, 2, 3, 4]],
    )
    stride: Annotated[int, Field(ge=1)] = Field(
        1, description="Sites between the starts of two windows, from site 0.", examples=[2]
    )

    @model_validator(mode="after")
    def _check(self) -> WindowsSpec:
        no_repeats(("sizes",), self.sizes or (), "size")
        return self


class GenerationSpec(Strict):
    """How images are generated. All but ``batch_size`` and ``unit_seconds`` change the pixels."""

    steps: Annotated[int, Field(ge=1, le=1000)] = Field(
        50,
        description="Denoising steps per picture. Default: those with which the models of the sweep are published, for "
        "models named by their id or hub id; 50 for others, and where models differ.",
        examples=[30],
    )
    guidance_scale: Annotated[float, Field(ge=0, le=1000)] = Field(
        7.5,
        description="Scale of classifier-free guidance, for models that do not say. Default: that with which a model "
        "is published, for models named by their id or hub id; 7.5 for others.",
        examples=[3.5],
    )
    height: Annotated[int, Field(ge=8, multiple_of=8)] | None = Field(
        None, description="Height of a picture in pixels, a multiple of 8. Default: the model's own.", examples=[512]
    )
    width: Annotated[int, Field(ge=8, multiple_of=8)] | None = Field(
        None, description="Width of a picture in pixels, a multiple of 8. Default: the model's own.", examples=[512]
    )
    scheduler: Name | None = Field(
        None,
        description="Class name of a diffusers scheduler. Default: the model's own.",
        examples=["DDIMScheduler"],
    )
    batch_size: Annotated[
        Annotated[Annotated[int, Field(ge=1, le=4096)], Tag("rows")] | Annotated[Literal["auto"], Tag("word")],
        Discriminator(lambda value: "word" if isinstance(value, str) else "rows"),
    ] = Field(
        8,
        description="Rows per batch: pictures, and in some families the donor prompts that they read from. `auto` "
        "measures the fastest size once per model, on a worker of the sweep.",
        examples=["auto"],
    )
    unit_seconds: Annotated[float, Field(ge=1, le=86400)] = Field(
        300.0,
        description="How long a unit of work may take: what a machine that is taken away loses at the most, and what a "
        "stop waits for. With `batch_size: auto`, as measured on the worker that measures the size; else by an assumed "
        "cost per picture. Small sweeps are cut into shorter units.",
        examples=[60],
    )

    @property
    def settings(self) -> Generation:
        """What changes the pixels."""
        return Generation(**self.model_dump(exclude={"batch_size", "unit_seconds"}))


class InterventionSpec(Strict):
    """A set of options under which every window is swept; the default is the paper's own."""

    part: Part = Field(
        "kv",
        description="What sites read from the donor prompt: keys and values (`kv`), keys (`k`), or values (`v`).",
        examples=["v"],
    )
    steps: tuple[Annotated[int, Field(ge=0)], Annotated[int, Field(ge=1)]] | None = Field(
        None,
        description="Denoising steps at which sites read the donor prompt, as [first, end): counted from 0, the end "
        "excluded. Default: all steps.",
        examples=[[0, 25]],
    )
    tokens: Tokens = Field(
        "all",
        description="Token positions that come from the donor prompt: `all`, `words` (from the first position to the "
        "last word of either prompt), or `padding` (all after that).",
        examples=["words"],
    )
    guidance_half: GuidanceHalf = Field(
        "conditional",
        description="Half of classifier-free guidance that reads the donor prompt. Default: `conditional`; `both` of "
        "models with a `donor`.",
        examples=["both"],
    )
    pooled: Pooled = Field(
        "prompt",
        description="Which prompt the pooled text vector comes from, in families whose denoiser reads one.",
        examples=["donor"],
    )
    source: Source = Field(
        "run",
        description="Of families where text and image attend to each other: what the donor prompt's keys and values "
        "come from. `run`: a picture of the donor prompt, drawn from the same noise (activation patching). `own`: the "
        "row's own picture, with the donor prompt in place of its own; every picture then costs two. `weights`: the "
        "row's own prompt, by the `donor` of the model; the default where models have one, and only there.",
        examples=["own"],
    )

    @property
    def any_half(self) -> bool:
        """Whether it means something without guidance: a donor's weights serve whatever halves there are."""
        return self.guidance_half == "conditional" or (self.guidance_half == "both" and self.source == "weights")

    def at(self, sites: tuple[int, ...]) -> Intervention:
        """Returns the intervention with these options at the given sites."""
        start, end = self.steps or (0, None)
        return Intervention(sites, self.part, start, end, self.tokens, self.guidance_half, self.pooled, self.source)


def _attribute_name(value: str) -> str:
    kind, slash, name = value.partition("/")
    if "*" in value:
        raise PydanticCustomError(
            "rule", f"{value!r} is wrong; expected names one by one, from `loco-sweep attributes`, not a pattern"
        )
    if not (kind.strip() and slash and name.strip()):
        raise PydanticCustomError(
            "rule", f"{value!r} is wrong; expected a name such as style/NAME, or an attribute written out"
        )
    return value


Attribute = Annotated[
    Annotated[Annotated[Name, AfterValidator(_attribute_name)], Tag("name")] | Annotated[AttributeSpec, Tag("inline")],
    Discriminator(lambda value: "name" if isinstance(value, str) else "inline"),
]
"""An attribute, or the name of one."""
Models = Annotated[tuple[Model, ...], Field(min_length=1)]
Attributes = Annotated[tuple[Attribute, ...], Field(min_length=1)]


def _windows_by_size(value: Any) -> Any:
    sizes = [value] if isinstance(value, int) and not isinstance(value, bool) else value
    return tuples({"sizes": sizes} if isinstance(sizes, list | tuple) else sizes)


def _first_seeds(value: Any) -> Any:
    if isinstance(value, int) and not isinstance(value, bool):
        if not 1 <= value <= MAX_SEEDS:
            raise PydanticCustomError("rule", f"expected 1 to {MAX_SEEDS:,} seeds, or a list of seeds")
        return tuple(range(value))
    if not isinstance(value, list | tuple):
        raise PydanticCustomError("rule", "expected how many seeds, or a list of seeds")
    return tuple(value)


Seeds = Annotated[
    Annotated[tuple[Seed, ...], Field(min_length=1)],
    BeforeValidator(_first_seeds, json_schema_input_type=Annotated[int, Field(ge=1, le=MAX_SEEDS)] | tuple[Seed, ...]),
]
"""Seeds, or how many."""


def _localizers(settings: LocalizeSettings, folder: str) -> LocalizeSettings:
    main, *others = (key_or_file(name, folder) for name in settings.localizers)
    return settings.model_copy(update={"localizer": main, "compare": tuple(others)})


class SweepSpec(Strict):
    """A sweep as declared: models x attributes x windows x prompts x seeds."""

    name: Name = Field(description="Name of the sweep. It is part of the sweep's identity.", examples=["first"])
    models: Annotated[Models, BeforeValidator(listed, json_schema_input_type=Model | Models)] = Field(
        description="Models that are swept, or the only one. A name that `loco-sweep models` lists stands for "
        "`{id: NAME}`.",
        examples=[["sd15", {"id": "mine", "path": "./my-pipeline", "dtype": "float16"}]],
    )
    attributes: Annotated[Attributes, BeforeValidator(listed, json_schema_input_type=Attribute | Attributes)] = Field(
        description="Attributes that are looked for, or the only one: names that `loco-sweep attributes` lists, or "
        "attributes written out.",
        examples=[["style/van-gogh"]],
    )
    windows: Annotated[
        WindowsSpec, BeforeValidator(_windows_by_size, json_schema_input_type=int | tuple[int, ...] | WindowsSpec)
    ] = Field(
        WindowsSpec(),
        description="Windows of adjacent cross-attention sites, in execution order. Numbers stand for `{sizes: ..}`.",
        examples=[{"sizes": [1, 2, 3, 4]}],
    )
    prompts: Annotated[int, Field(ge=1)] = Field(
        8,
        description="Prompts per attribute: the first so many of its records. A larger number later only adds what is "
        "missing.",
        examples=[16],
    )
    seeds: Seeds = Field(
        (0, 1, 2, 3),
        description="Seeds of the initial noise, for every prompt: a number N stands for 0 .. N-1, or a list of seeds. "
        "A larger number later only adds what is missing.",
        examples=[8, [0, 1, 2, 3]],
    )
    generation: GenerationSpec = Field(
        GenerationSpec(),
        description="How pictures are generated.",
        examples=[{"steps": 50, "guidance_scale": 7.5, "batch_size": 8}],
    )
    scorer: ScorerPlace = Field(
        description="What scores pictures against texts: a scorer's name, a Python file, or the name or folder of a "
        "transformers CLIP model.",
        examples=["openai/clip-vit-large-patch14"],
    )
    margin: Margin | None = Field(
        None,
        description="What a picture's score with its attribute's text is held against: the score with the donor's text "
        "(`donor`), or the largest with it and the texts of the other attributes of the kind (`siblings`). Default: "
        "`siblings`; `donor` for attributes that have none.",
        examples=["donor"],
    )
    localize: Annotated[LocalizeSettings, of_file(_localizers)] = Field(
        LocalizeSettings(), description="Rules by which windows are picked.", examples=[{"threshold": 0.8}]
    )
    controls: ControlsSpec = Field(
        ControlsSpec(),
        description="Which further pictures are drawn to compare windows with. Clean pictures and pictures of the "
        "donor prompt are always drawn.",
        examples=[{"random": 0}],
    )
    interventions: Annotated[tuple[InterventionSpec, ...], Field(min_length=1)] = Field(
        (InterventionSpec(),),
        description="Sets of options under which every window is swept. Default: one set, the paper's.",
        examples=[[{"part": "kv"}, {"part": "v"}]],
    )
    edit: EditSpec | None = Field(
        None,
        description="Edits that are fitted where an attribute is localized; `{}` takes all defaults. Default: none.",
        examples=[{}],
    )
    evaluate: EvaluateSpec = Field(
        EvaluateSpec(),
        description="Prompts and seeds that edits are measured on.",
        examples=[{"prompts": 8, "seeds": 8}],
    )
    images: Images = Field(
        "report",
        description="Pictures that are kept: none, those that the report shows (two seeds), or all.",
        examples=["all"],
    )
    stages: dict[Name, dict[str, Any]] = Field(
        default_factory=dict,
        description="Kinds of work that other packages add and that are wanted, each with its settings.",
        examples=[{"brightness": {"seeds": 2}}],
    )
    hooks: Hooks = Field(
        (),
        description="What follows the runs of this sweep: names of hooks (`tensorboard`, `wandb`, `mlflow`), or Python "
        "files, each alone or with its settings. They may change at any time.",
        examples=[["tensorboard", {"wandb": {"project": "first"}}, "./mine.py"]],
    )
    notify: (
        Annotated[NotifySpec, BeforeValidator(notified, json_schema_input_type=str | tuple[str, ...] | NotifySpec)]
        | None
    ) = Field(
        None,
        description="Who gets a message when units fail or a run ends. Addresses alone stand for `{to: ..}`. Default: "
        "nobody.",
        examples=[["${env:SLACK_URL}"]],
    )
    results: ResultsPlace | None = Field(
        None,
        description="Folder of the results, relative to the sweep's file, or an address (`s3://`, `gs://`, `abfs://`). "
        "Default: `results/NAME` in the working directory. `--results` goes first.",
        examples=["results/first"],
    )
    reproduces: Name | None = Field(
        None,
        description="Name of a preset (`loco-sweep reproduce` lists them) whose published values the report shows next "
        "to the measured ones. Default: none.",
        examples=["locogen-sd14"],
    )

    @model_validator(mode="before")
    @classmethod
    def _as_published(cls, value: Any) -> Any:
        """Writes steps and guidance down as published, where the sweep says none, so that results keep them."""
        if not isinstance(value, dict):
            return value
        value = tuples(value)
        generation, models = value.get("generation", {}), listed(value.get("models"))
        if isinstance(generation, GenerationSpec):
            generation = generation.model_dump(exclude_unset=True)
        if not isinstance(generation, dict) or not isinstance(models, list | tuple):
            return value
        if any(donor_of(item) is not None for item in models):
            value = {**value, "interventions": of_weights(value.get("interventions", ({},)))}
        known = [published_of(item) for item in models]
        if "steps" not in generation and len(steps := {info.steps if info else None for info in known}) == 1:
            (published,) = steps
            if published not in (None, GenerationSpec().steps):
                value = {**value, "generation": {**generation, "steps": published}}
        if "guidance_scale" not in generation:
            pairs = zip(models, known, strict=True)
            value = {**value, "models": tuple(guided(item, info) for item, info in pairs)}
        return value

    def _guidance_scales(self) -> list[float]:
        own = [model.guidance_scale for model in self.models]
        return [self.generation.guidance_scale if scale is None else scale for scale in own]

    def sizes(self, n_sites: int) -> tuple[int, ...]:
        """Returns the window sizes that are swept in a model of so many sites, smallest first."""
        return tuple(sorted(self.windows.sizes or self.localize.sizes(n_sites)))

    @property
    def files(self) -> tuple[str, ...]:
        """The Python files that results follow from, each once: workers execute them, too."""
        editors = self.edit.editors if self.edit else ()
        texts = (name for item in self.attributes if isinstance(item, AttributeSpec) for name in item.published)
        named = dict.fromkeys((self.scorer, *self.localize.localizers, *editors, *texts, *self.evaluate.plug_ins))
        return tuple(name for name in named if name.endswith(".py"))

    @property
    def all_files(self) -> tuple[str, ...]:
        """The Python files that it names, each once: those of hooks, which the driver executes, included."""
        hooks = (choice(hook).name for hook in self.hooks)
        return tuple(dict.fromkeys((*self.files, *(name for name in hooks if name.endswith(".py")))))

    @model_validator(mode="after")
    def _check(self) -> SweepSpec:
        no_repeats(("models",), (model.id for model in self.models), "model")
        labels = [a if isinstance(a, str) else a.label for a in self.attributes]
        no_repeats(("attributes",), labels, "attribute")
        no_repeats(("seeds",), self.seeds, "seed")
        no_repeats(("interventions",), self.interventions, "intervention")
        check_donors(self)
        check_groups(self.edit, labels)
        for i, attribute in enumerate(self.attributes):
            if isinstance(attribute, AttributeSpec) and len(attribute.records) < self.prompts:
                count = len(attribute.records)
                message = f"{count} records for prompts: {self.prompts}; expected at least {self.prompts} records"
                raise problem(("attributes", i, "records"), message)
        for i, option in enumerate(self.interventions):
            if not option.any_half and min(self._guidance_scales()) <= 1:
                message = f"{option.guidance_half!r} needs classifier-free guidance; expected a guidance_scale above 1"
                raise problem(("interventions", i, "guidance_half"), message)
            if option.steps and not option.steps[0] < option.steps[1] <= self.generation.steps:
                message = f"{list(option.steps)} is wrong; expected [start, end) with end at most the"
                raise problem(("interventions", i, "steps"), f"{message} {self.generation.steps} steps of generation")
        return self
