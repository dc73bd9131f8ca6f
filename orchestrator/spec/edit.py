"""The ``edit:`` and ``evaluate:`` blocks of a sweep."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, ConfigDict, Field, model_validator

from loco_core.editing.base import Fill, HeldHalf, Neurons, Retain, Targets, TokenSet
from loco_core.errors import did_you_mean
from orchestrator.spec.attacks import Attacks
from orchestrator.spec.metrics import Metrics, choice
from orchestrator.spec.places import KeyOrFile, ModelPlace, NamedModel, Place
from orchestrator.spec.rules import Name, Strict, listed, no_repeats, problem, tuples

Lambdas = Annotated[tuple[Annotated[float, Field(gt=0)], ...], Field(min_length=1)]

Group = Annotated[tuple[Name, ...], Field(min_length=2)]
Groups = tuple[Group, ...]


def _groups(value: Any) -> Any:
    """Takes a list of names alone for the only group."""
    if isinstance(value, list | tuple) and value and all(isinstance(name, str) for name in value):
        return (tuple(value),)
    return tuples(value)


class EditSpec(Strict):
    """Which edits are fitted, where an attribute is localized or a method puts them, and how one of each is chosen."""

    editors: Annotated[tuple[KeyOrFile, ...], Field(min_length=1)] = Field(
        ("loco_edit", "neurons"),
        description="Editors: `loco_edit`, `neurons`, `uce`, `speed`, `rece`, `diff_quick_fix`, others that packages "
        "add, or Python files.",
        examples=[["loco_edit", "neurons", "uce"]],
    )
    targets: Annotated[
        Annotated[tuple[Targets, ...], Field(min_length=1)] | None,
        BeforeValidator(listed, json_schema_input_type=Targets | tuple[Targets, ...] | None),
    ] = Field(
        None,
        description="Texts that edits are fitted on: the `published` texts of an attribute, as the authors of the "
        "editor do, prompts `paired` with their donors, or both. Default: paired, and published too where the "
        "attribute has such texts.",
        examples=["paired", ["published", "paired"]],
    )
    lambdas: Lambdas = Field(
        (0.001, 0.01, 0.1, 1.0),
        description="Strengths of LocoEdit's paired edits, as shares of the mean squared norm of the keys; a larger "
        "one changes less. Each is tried.",
        examples=[[0.01, 0.1]],
    )
    method_lambdas: Mapping[KeyOrFile, Lambdas] = Field(
        default_factory=dict,
        description="Absolute strengths by editor, of published edits and of methods that need no localization (`uce`, "
        "`speed`, `rece`, `diff_quick_fix`). Default: the published one of each.",
        examples=[{"uce": [0.1, 0.5]}],
    )
    neurons: Annotated[tuple[Neurons, ...], Field(min_length=1)] = Field(
        (0.1, 0.15, 0.25),
        description="Output coordinates of every projection that the neuron editor holds: shares up to 1, or whole "
        "numbers, as published. Each is tried.",
        examples=[[0.1, 100]],
    )
    tokens: Annotated[tuple[TokenSet, ...], Field(min_length=1)] = Field(
        ("last_subject", "all"),
        description="Token positions at which closed-form edits make a prompt read as its donor; each is tried with "
        "every strength.",
        examples=[["subject"]],
    )
    neuron_tokens: Annotated[tuple[TokenSet, ...], Field(min_length=1)] = Field(
        ("last_subject",),
        description="Token positions at which neurons are ranked, and at which the donors' mean is taken.",
        examples=[["subject"]],
    )
    fill: Fill = Field(
        "donor_mean",
        description="Value that the neuron editor holds a coordinate at: its mean under the donor prompts, or zero.",
        examples=["zero"],
    )
    guidance_half: HeldHalf = Field(
        "conditional",
        description="Half of classifier-free guidance in which the neuron editor holds coordinates: `conditional`, as "
        "published, or `both`.",
        examples=["both"],
    )
    preserve: Annotated[int, Field(ge=0, le=16)] | None = Field(
        None,
        description="Number of nearest attributes of the same kind that LocoEdit's paired edits, UCE, SPEED and RECE "
        "must leave alone; 0 as in LocoEdit's paper. Default: 8, of `speed` and `rece` 16.",
        examples=[0],
    )
    retain: Retain = Field(
        "affected",
        description="Of the texts that SPEED must leave alone, which it keeps as they read: those that the edit would "
        "move by the mean of all or more (`affected`), as published, or `all`.",
        examples=["all"],
    )
    max_neighbour_loss: Annotated[float, Field(ge=0, le=1)] = Field(
        0.1,
        description="Largest share of the neighbours' pictures that the chosen edit may spoil.",
        examples=[0.05],
    )
    choose_by: Literal["judge", "scorer"] | None = Field(
        None,
        description="What tells which strength of an edit works best on the `select` split: the `judge` of `evaluate`, "
        "or the margin of the sweep's `scorer`. What edits are graded by on `report` stays. Default: the judge if "
        "there is one, else the scorer.",
        examples=["scorer"],
    )

    together: Annotated[Groups, BeforeValidator(_groups, json_schema_input_type=Group | Groups)] = Field(
        (),
        description="Groups of attributes of the sweep; one edit is fitted to all attributes of a group, each at its "
        "own sites. A list of names alone is one group. Default: none.",
        examples=[["style/velor", "fact/zandia"], [["style/velor", "fact/zandia"], ["style/velor", "style/lumio"]]],
    )

    sequence: Annotated[Groups, BeforeValidator(_groups, json_schema_input_type=Group | Groups)] = Field(
        (),
        description="Attributes of the sweep whose chosen edits are fitted again one after the other, in this order, "
        "each on the weights that the earlier ones left. A list of names alone is one sequence. Default: none.",
        examples=[["style/velor", "fact/zandia"], [["style/velor", "fact/zandia"], ["fact/zandia", "style/velor"]]],
    )

    @model_validator(mode="after")
    def _check(self) -> EditSpec:
        for name in ("editors", "targets", "lambdas", "neurons", "tokens", "neuron_tokens"):
            no_repeats((name,), getattr(self, name) or (), "the value")
        for i, group in enumerate(self.together):
            no_repeats(("together", i), group, "the attribute")
        no_repeats(("together",), (" + ".join(sorted(group)) for group in self.together), "the group")
        for i, names in enumerate(self.sequence):
            no_repeats(("sequence", i), names, "the attribute")
        no_repeats(("sequence",), (" > ".join(names) for names in self.sequence), "the sequence")
        for editor, values in self.method_lambdas.items():
            loc = ("method_lambdas", editor)
            if editor not in self.editors:
                raise problem(loc, f"it is none of the editors{did_you_mean(editor, self.editors)}")
            no_repeats(loc, values, "the value")
        return self


def check_groups(edit: EditSpec | None, attributes: Sequence[str]) -> None:
    """Refuses attributes that are edited together or in a sequence and are not in the sweep.

    Args:
        edit: the ``edit:`` block.
        attributes: names of the sweep's attributes.
    """
    for key in ("together", "sequence") if edit else ():
        for i, group in enumerate(getattr(edit, key)):
            for j, name in enumerate(group):
                if name not in attributes:
                    raise problem(("edit", key, i, j), f"{name!r} is none of the attributes{_or(name, attributes)}")


def _or(name: str, attributes: Sequence[str]) -> str:
    return did_you_mean(name, attributes) or f"; expected one of {', '.join(attributes)}"


class JudgeSpec(Strict):
    """A judge with what it is given; its own settings stand beside these keys."""

    # Which settings a judge has is said by its plug-in, which is not loaded where a file is read.
    model_config = ConfigDict(extra="allow")

    use: KeyOrFile = Field(description="A judge's name, or a Python file.", examples=["zero_shot"])
    model: ModelPlace | None = Field(
        None,
        description="Folder or hub id of the model that it judges by, other weights than the scorer's. Default: the "
        "judge's own.",
        examples=["google/siglip-base-patch16-224"],
    )
    revision: Name | None = Field(
        None, description="Commit, branch or tag of a model on the hub. Default: its main branch.", examples=["main"]
    )
    pictures: Place | None = Field(
        None,
        description="Folder with a folder of pictures per class, of judges that compare with pictures. Default: none.",
        examples=["references"],
    )

    @property
    def settings(self) -> dict[str, Any]:
        """The judge's own settings, by name."""
        return dict(self.model_extra or {})


def judge_named(value: Any) -> Any:
    """Returns the block that a judge's name alone stands for; else the value as it is."""
    return {"use": value} if isinstance(value, str) else tuples(value)


class EvaluateSpec(Strict):
    """On what edits are measured."""

    prompts: Annotated[int, Field(ge=1)] = Field(
        4, description="Prompts per role: targets, paraphrases, neighbours and unrelated ones.", examples=[8]
    )
    seeds: Annotated[int, Field(ge=1, le=1000)] = Field(
        4, description="Seeds per prompt, none of which the sweep used.", examples=[8]
    )
    neighbours: Annotated[int, Field(ge=0)] = Field(
        2, description="Number of nearest attributes of the same kind that are watched.", examples=[4]
    )
    judge: Annotated[JudgeSpec, BeforeValidator(judge_named, json_schema_input_type=str | JudgeSpec)] | None = Field(
        None,
        description="What names what a picture shows: a judge's name, a Python file, or a judge with its model and its "
        "settings. A name alone stands for `{use: ..}`. Default: the sign of the CLIP margin decides.",
        examples=["toy-judge", {"use": "zero_shot", "model": "google/siglip-base-patch16-224", "abstain": 0.1}],
    )
    metrics: Metrics = Field(
        (),
        description="Metrics of pictures with the edit against those without it: `ssim` and `dino` picture by picture, "
        "`cmmd` and `fid` all pictures of unrelated prompts together, others that packages add, or Python files, each "
        "alone or with its settings. Default: none.",
        examples=[["ssim", {"cmmd": {"weights": "openai/clip-vit-large-patch14"}}]],
    )
    attacks: Attacks = Field(
        (),
        description="Attacks on the chosen edits, which tell whether an attribute is gone or only hidden: "
        "`soft_prompt`, `textual_inversion`, `noised_clean`, `relearn`, others that packages add, or Python files, "
        "each alone or as `{use: ..}` with its settings. Default: none.",
        examples=[["noised_clean", {"use": "relearn", "steps": 50}]],
    )
    floor: NamedModel | None = Field(
        None,
        description="A model that never learned the attributes: a name that `loco-sweep models` lists, or the folder "
        "or hub id of a diffusers pipeline. Attacks on it say what they put into any model. Default: none.",
        examples=["./never-saw-it"],
    )
    windows: bool = Field(
        True,
        description="Whether the chosen edit is also made at every window that shares no site with the localized one.",
        examples=[False],
    )

    @property
    def metric_names(self) -> tuple[str, ...]:
        """Keys and files of the metrics."""
        return tuple(choice(item).name for item in self.metrics)

    @property
    def plug_ins(self) -> tuple[str, ...]:
        """Keys and files of the judge, of the metrics and of the attacks."""
        return (*((self.judge.use,) if self.judge else ()), *self.metric_names, *(item.use for item in self.attacks))
