"""The editors, one file each: from prompts and their donors to new weights at the sites that hold the attribute.

An editor's file exports a function ``edit`` with the signature of :class:`Editor`. It returns changes and leaves the
model as it is. What else there is to know of it, it says in ``INFO`` (an :class:`EditorInfo`): which settings are tried
and searched, where it edits, and what its edits are held against. Plans are made of that, without torch.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal, Protocol

from pydantic import AfterValidator, BaseModel, ConfigDict, Field
from pydantic_core import PydanticCustomError

from loco_core import plugins
from loco_core.diffusion.model import LoadedModel
from loco_core.errors import EditError, SpecError, first_line
from loco_core.types import PromptRecord

if TYPE_CHECKING:
    from loco_core.editing.deltas import Change, WeightDelta

TokenSet = Literal["last_subject", "subject", "tail", "last_position", "all"]
Targets = Literal["published", "paired"]
Fill = Literal["donor_mean", "zero"]
HeldHalf = Literal["conditional", "both"]
Retain = Literal["affected", "all"]


def _share_or_count(value: float) -> float:
    if value > 1 and not value.is_integer():
        raise PydanticCustomError("rule", f"{value:g} is wrong; expected a share up to 1, or a whole number of neurons")
    return value


Neurons = Annotated[float, Field(gt=0), AfterValidator(_share_or_count)]


class EditSettings(BaseModel):
    """The settings of one edit.

    Attributes:
        editor: key of the editor, or its file.
        targets: what is edited: the published texts of the attribute, as the editor's authors do (``published``), or
            prompts with contents, paired word by word with their donors (``paired``). An editor that was not published
            with texts of its own knows the latter alone.
        tokens: which positions of a prompt are made to read as its donor: the last word of what the donor changes,
            all its words, that last word and everything behind it, padding included (``tail``), the last position that
            is looked at (with CLIP the end of the padding), or all positions. Of published texts it is what was
            published: the last token, or ``tail``. Neurons are ranked there, and held at all positions.
        strength: lambda, or what an editor of one's own takes for it; larger changes less. It is a share of the mean
            squared norm of the keys, preserved ones among them, or absolute, see `EditorInfo`.
        preserve: how many of the nearest attributes of the same kind must read as before, where the editor can do that
            (the preservation term of UCE, Gandikota et al., WACV 2024, eq. 7).
        neurons: how many output coordinates of every projection are held: a share up to 1, or a whole number.
        fill: what it holds them at: their mean under the donor prompts, or zero.
        guidance_half: where it holds them: in the conditional half of guidance, or in both. Weights are edited in both.
        retain: which prompts an editor that filters them keeps as they read: those that the edit would move most
            (``affected``), or ``all``.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    editor: str = "loco_edit"
    targets: Targets = "paired"
    tokens: TokenSet = "all"
    strength: Annotated[float, Field(gt=0)] = 0.1
    preserve: Annotated[int, Field(ge=0)] = 0
    neurons: Neurons = 0.25
    fill: Fill = "donor_mean"
    guidance_half: HeldHalf = "conditional"
    retain: Retain = "affected"


@dataclass(frozen=True)
class Published:
    """How an editor was published.

    Attributes:
        tokens: which positions of a key text are made to read as its anchor: the last token, or ``tail``.
        strength: its lambda, absolute.
    """

    tokens: TokenSet
    strength: float


@dataclass(frozen=True)
class Concept:
    """One attribute that an edit removes or replaces: the prompts that say it, each with its donor.

    Of a published edit they are the key texts, with their anchors as donors.
    """

    attribute: str
    records: tuple[PromptRecord, ...]


@dataclass(frozen=True)
class Target:
    """What an edit is fitted on.

    Attributes:
        model_id: the model's id in the sweep.
        weights: hash of its weights.
        sites: the sites to edit; none where a method edits a text encoder.
        concepts: one or several attributes, edited together.
        preserve: records whose prompts must read as before (the preservation term of UCE, Gandikota et al., WACV 2024,
            eq. 7).
        localization: what picked the sites, for provenance.
    """

    model_id: str
    weights: str
    sites: tuple[int, ...]
    concepts: tuple[Concept, ...]
    preserve: tuple[PromptRecord, ...] = ()
    localization: str = "by hand"


class Editor(Protocol):
    """Computes new weights."""

    def __call__(self, model: LoadedModel, target: Target, settings: EditSettings) -> tuple[Change, ...]:
        """Returns the changes of K and V at the target's sites, or of the text encoders.

        Raises:
            EditError: a site admits no edit, a prompt equals its donor, or the system has no unique solution.
        """


Place = Literal["all_sites", "text_encoder"]
Make = Callable[["LoadedModel", "Target", "EditSettings", "WeightDelta", int], "WeightDelta"]
"""Makes a baseline of a fitted edit, from the model, what it was fitted on, its settings, itself, and a seed."""


@dataclass(frozen=True)
class Baseline:
    """What a chosen edit is held against.

    Attributes:
        scope: its name in the column ``scope`` of ``edits``.
        words: what it is, in words.
        short: the place that it stands for in labels.
        at: where it is made: at the edit's own sites, at all that admit an edit, in every strength, or at every window
            of its size that shares no site with it.
        make: how it is made of an edit that was fitted there; None takes that as it is.
    """

    scope: str
    words: str
    short: str = ""
    at: Literal["own", "all_sites", "windows"] = "own"
    make: Make | None = None


def _placebo(model: LoadedModel, target: Target, settings: EditSettings, delta: WeightDelta, seed: int) -> WeightDelta:
    from loco_core.editing.deltas import placebo

    return placebo(model, delta, seed)


ALL_SITES = Baseline("all_sites", "the same edit at all sites", "all sites", at="all_sites")
WINDOWS = Baseline("window", "the same edit at a window elsewhere", at="windows")
PLACEBO = Baseline("placebo", "a placebo of equal norm", "placebo", make=_placebo)


@dataclass(frozen=True)
class Setting:
    """A setting that an editor is tried with at several values.

    Attributes:
        name: field of `EditSettings`.
        option: key of a sweep's ``edit:`` block that lists its values.
        values: what is tried where a sweep does not say; empty leaves that to the block's own default.
        span: lowest and highest value that ``tune`` looks at, in equal steps of the logarithm.
        choices: the values that ``tune`` looks at, where there is no span.
        column: of ``edits`` and ``trials``, if it has one.
        words: how a value is said, e.g. ``lambda {:.2g}``; empty leaves it out.
    """

    name: str
    option: str
    values: tuple[Any, ...] = ()
    span: tuple[float, float] | None = None
    choices: tuple[str, ...] = ()
    column: str = ""
    words: str = ""


TOKENS = Setting("tokens", "tokens", choices=("last_subject", "subject", "tail", "all"))
LAMBDA = Setting("strength", "lambdas", span=(1e-4, 10.0), column="lambda", words="lambda {:.2g}")
COLUMNS = ("lambda", "neurons", "guidance_half")
"""Columns of ``edits`` that an editor may fill."""


@dataclass(frozen=True)
class EditorInfo:
    """What an editor says of itself, without torch; as it stands, what holds of one that says nothing.

    Attributes:
        settings: what is tried, the first one in the outer loop; none of an editor that is tied to a place, whose
            lambdas a sweep lists by editor (``method_lambdas``).
        options: further fields of `EditSettings` that it takes from the sweep's ``edit:`` block as they are.
        absolute: whether the lambda of its paired edits is absolute; that of published ones always is.
        preserves: of which targets prompts may be given that must read as before.
        preserve: of how many of the nearest attributes of the same kind, where a sweep does not say.
        published: how it was published, if it can be fitted so.
        place: where it edits whatever was localized; None edits at the sites that it is given.
        baselines: what its chosen edits are held against.
        several: why it takes several positions to fit on, in words; empty where one will do.
        fixed_text: why it takes sites that read the same of a text at every step, in words; empty where it edits models
            too in which text and image attend to each other.
        together: whether it fits several attributes at once, all concepts of its target; one that looks at the first
            alone says False.
        columns: what it fills of `COLUMNS`, from settings and changes; None fills the columns of its settings.
        methods: what the report's text on methods says of it.
    """

    settings: tuple[Setting, ...] = (TOKENS, LAMBDA)
    options: tuple[str, ...] = ()
    absolute: bool = False
    preserves: tuple[Targets, ...] = ("paired",)
    preserve: int = 8
    published: Published | None = None
    place: Place | None = None
    baselines: tuple[Baseline, ...] = (ALL_SITES, WINDOWS, PLACEBO)
    several: str = ""
    fixed_text: str = ""
    together: bool = True
    columns: Callable[[EditSettings, WeightDelta], Mapping[str, Any]] | None = None
    methods: str = ""

    @property
    def is_searchable(self) -> bool:
        """Whether ``tune`` can search its settings."""
        return bool(self.settings) and all(setting.span or setting.choices for setting in self.settings)

    def baseline(self, scope: str) -> Baseline | None:
        """Returns the baseline of a scope; None where that is none."""
        return next((item for item in self.baselines if item.scope == scope), None)

    def filled(self, settings: EditSettings, delta: WeightDelta) -> Mapping[str, Any]:
        """Returns what `COLUMNS` say of an edit.

        Raises:
            SpecError: the editor fills another column.
        """
        if self.columns is None:
            # An absolute lambda has a column of its own.
            absolute = self.absolute or settings.targets == "published"
            found: Mapping[str, Any] = {} if absolute else shown(self, settings)
        else:
            found = self.columns(settings, delta)
        for name in found:
            if name not in COLUMNS:
                raise SpecError(f'{settings.editor} fills the column "{name}"; expected one of {", ".join(COLUMNS)}')
        return {**dict.fromkeys(COLUMNS), **found}


def shown(info: EditorInfo, settings: EditSettings) -> dict[str, Any]:
    """Returns the values of an editor's settings by their columns."""
    return {item.column: getattr(settings, item.name) for item in info.settings if item.column}


def in_words(info: EditorInfo, settings: EditSettings) -> str:
    """Says the settings of an edit: "lambda 0.1"."""
    return ", ".join(item.words.format(getattr(settings, item.name)) for item in info.settings if item.words)


def editor_info(editor: str) -> EditorInfo:
    """Returns what an editor says of itself.

    Raises:
        SpecError: there is no such editor.
    """
    return plugins.declared("editors", editor, "INFO", EditorInfo())


def info_of_results(editor: str) -> EditorInfo:
    """Returns the same of an editor that a table names; of a file, or one that is not here, what holds by default."""
    return editor_info(editor) if editor in plugins.keys("editors") else EditorInfo()


def editor_code(editor: str) -> str:
    """Returns a hash of what an outside editor is executed from; empty of one of this project.

    Raises:
        SpecError: there is no such editor.
    """
    source = plugins.source("editors", editor)
    return hashlib.sha256(source).hexdigest() if source else ""


def named(editor: str, targets: str | None) -> str:
    """Names an editor so that its published edit and ours are never taken for each other.

    Args:
        editor: its key.
        targets: what it edits; None of an editor that was not published with targets of its own.
    """
    said = {"published": "as published", "paired": "paired"}.get(targets or "")
    return f"{editor}, {said}" if said else editor


def evolving_text(editor: str, model: str, stream: str) -> str:
    """Says why an editor does not edit a model in which text and image attend to each other; empty where it does.

    Args:
        editor: its key.
        model: the model, in words.
        stream: how its text is read, see :attr:`loco_core.diffusion.facts.FamilyInfo.stream`.
    """
    why = editor_info(editor).fixed_text
    if not why or stream != "evolving":
        return ""
    return f"{editor}: {why}, and in {model} text and image attend to each other, so that it is another at every step"


def fit_edit(model: LoadedModel, target: Target, settings: EditSettings) -> WeightDelta:
    """Fits an edit with the editor that the settings name.

    Raises:
        EditError: see :class:`Editor`; or the words of a text are not known; or the editor takes one attribute and is
            given several; or the file raised what a mistake in it raises, or returned no changes.
        SpecError: there is no such editor.
    """
    from loco_core.editing.deltas import Change, Provenance, WeightDelta

    if not model.facts.words:
        raise EditError("of this model nobody knows which tokens of a text are words, so that it admits no edit")
    if len(target.concepts) > 1 and not editor_info(settings.editor).together:
        raise EditError(f"{settings.editor} edits one attribute at a time; expected one concept, not several")
    edit: Editor = plugins.function("editors", settings.editor, "edit")
    if refused := evolving_text(settings.editor, "this model", model.facts.stream):
        raise EditError(refused)
    try:
        changes = tuple(edit(model, target, settings))
    except (TypeError, ValueError, LookupError, AttributeError) as error:
        raise EditError(f"{settings.editor}: edit raised {type(error).__name__}: {first_line(error)}") from error
    if not all(isinstance(change, Change) for change in changes):
        raise EditError(f"{settings.editor}: edit returned what is no Change; expected a tuple of them")
    made = Provenance(
        model=target.model_id,
        weights=target.weights,
        dtype=model.dtype,
        sites=target.sites,
        attributes=tuple(concept.attribute for concept in target.concepts),
        editor=settings.editor,
        settings=json.dumps(settings.model_dump(), sort_keys=True),
        localization=target.localization,
        components=tuple(dict.fromkeys(change.component for change in changes)),
        prompts=tuple((record.prompt, record.donor) for concept in target.concepts for record in concept.records),
    )
    return WeightDelta(made, changes)
