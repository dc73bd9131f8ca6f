"""From a score table to the layers that control an attribute, with evidence. One file a localizer, its name is the key.

A localizer's file exports a function `localize` with the signature of `Localizer`: pure, and deterministic given
``settings.seed``. One that decides from a part of the grid and asks for more exports `begin` too, see `Rule`. One that
reads traces instead of scores says of which method in a constant ``READS``; see `loco_core.tracing`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, Protocol

from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from loco_core import registry
from loco_core.types import Window

if TYPE_CHECKING:
    import pyarrow as pa

Outcome = Literal[
    "localized",
    "multiple",
    "redundant",
    "distributed",
    "inconclusive",
    "absent",
    "no_effect",
    "damaging",
    "incomplete",
]


About = Literal["these_pictures", "these_prompts", "prompts_like_these"]
"""Which population an outcome is about: the pictures that were drawn and nothing beyond; the sweep's prompts, with
seeds as random; or prompts like these, in more than half of which the window is shown to hold."""


def said(outcome: str, about: str | None, n_prompts: int) -> str:
    """Says an outcome in words that claim no more than it carries.

    Args:
        outcome: see `Outcome`.
        about: whom it is about, see `About`.
        n_prompts: of the sweep.
    """
    words = outcome.replace("_", " ")
    if outcome in ("inconclusive", "incomplete") or about == "prompts_like_these":
        return words
    if about != "these_prompts":
        return "picked" if outcome in ("localized", "multiple") else words
    return f"{words} in {n_prompts} prompt{'' if n_prompts == 1 else 's'}"


class LocalizeSettings(BaseModel):
    """The ``localize:`` block of a sweep.

    Attributes:
        localizer: key of the localizer, which edits follow.
        beside: keys of further localizers, to be compared with it.
        threshold: share of the full effect (clean to donor outright) that a window must remove.
        max_share: largest window looked at, as a share of all sites. "Distributed" speaks of windows up to this size.
        confidence: of every bound and interval.
        resamples: of attributes, prompts and seeds, behind a claim about a kind.
        damage_share: a window that loses more content than this, as a share of the difference between an image's own
            content and unrelated content, is not eligible.
        seed: of the draws and splits.
        screen: with a sequential localizer: on how many prompt-seed pairs a window is tried first, all prompts and at
            least two seeds.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    localizer: str = "window"
    beside: tuple[str, ...] = ()
    threshold: Annotated[float, Field(gt=0, le=1)] = 0.8
    max_share: Annotated[float, Field(gt=0, le=1)] = 0.25
    confidence: Annotated[float, Field(gt=0.5, lt=1)] = 0.95
    resamples: Annotated[int, Field(ge=100)] = 1000
    damage_share: Annotated[float, Field(ge=0, le=1)] = 0.1
    seed: Annotated[int, Field(ge=0)] = 0
    screen: Annotated[int, Field(ge=4)] = 8

    @property
    def localizers(self) -> tuple[str, ...]:
        """All localizers, the one that edits follow first."""
        return (self.localizer, *self.beside)

    @model_validator(mode="after")
    def _check(self) -> LocalizeSettings:
        names = [name_of(name) for name in self.localizers]
        for i, name in enumerate(names[1:]):
            if name in names[: i + 1]:
                context = {"name": name, "loc": ("beside", i)}
                raise PydanticCustomError("rule", "{name} is named twice; expected every localizer once", context)
        return self

    def largest(self, n_sites: int) -> int:
        """The largest window size that may be picked in a model of ``n_sites`` sites; at least 1."""
        # The tiny surplus keeps 0.29 * 100 from becoming 28.
        return max(1, int(self.max_share * n_sites + 1e-9))

    def sizes(self, n_sites: int) -> tuple[int, ...]:
        """Window sizes to sweep in a model of ``n_sites`` sites where nobody says which.

        They are the largest that may be picked and, going down from it, two thirds of the one before. Without the
        largest nothing could be called distributed; of 70 sites these are 451 windows, all sizes would be 1,054.
        """
        found = [self.largest(n_sites)]
        while found[-1] > 1:
            found.append(round(found[-1] / 1.5))
        return tuple(reversed(found))


@dataclass(frozen=True)
class Grid:
    """Everything that a sweep may run for one (model, attribute).

    Attributes:
        n_sites: of the model.
        windows: by size and start.
        prompts: ids, in the order in which the sweep takes them.
        seeds: likewise.
    """

    n_sites: int
    windows: tuple[Window, ...]
    prompts: tuple[str, ...]
    seeds: tuple[int, ...]


@dataclass(frozen=True)
class Request:
    """Cells that a localizer wants: one window on some prompts and seeds. What the sweep holds already costs nothing.

    Clean, donor outright and all-sites cells of the same prompts and seeds go with every request: they are what effects
    are measured against.

    Attributes:
        control: ``window`` swaps the window, ``complement`` everything but it; ``clean`` asks for no window at all.
        window: None with ``clean`` only.
        prompts: how many of the grid's first prompts; None all of them.
        seeds: likewise.
    """

    control: Literal["window", "complement", "clean"]
    window: Window | None
    prompts: int | None = None
    seeds: int | None = None


@dataclass(frozen=True)
class Effect:
    """What one window does to one attribute: a row of ``effects``.

    Attributes:
        window_start: first site; of a text encoder's layer its number.
        window_size: how many.
        effect: share of the full effect that swapping the window has: 0 none, 1 as much as the donor outright; null
            where there is no full effect to take a share of. A localizer that reads traces says what it is a share of.
        ci_low: two-sided interval of this window by itself, about these prompts.
        ci_high: its upper end.
        simultaneous_low: one-sided lower bound that holds for all swept windows together, about these prompts.
        damage: content lost against the donor outright, as a share of the difference between own and unrelated content.
        eligible: not too damaging to be picked.
        in_tie_set: of the best window's size, and not told apart from it.
        n_prompts: prompts with cells.
        n_seeds: seeds with cells.
        flip_rate: of the images on the attribute's side, how many this window moves to the donor's side.
        component: ``denoiser``, or ``text_encoder`` of a layer that is no site.
        holds_in: in how many of the prompts the mean effect over the seeds reaches the threshold.
        prompt_share_low: exact lower bound, for all swept windows together, of the share of prompts like these in which
            it does, with these seeds.
    """

    model: str
    attribute: str
    window_start: int
    window_size: int
    effect: float | None
    ci_low: float | None
    ci_high: float | None
    simultaneous_low: float | None
    damage: float | None
    eligible: bool
    in_tie_set: bool
    n_prompts: int
    n_seeds: int
    flip_rate: float | None
    component: str = "denoiser"
    holds_in: int | None = None
    prompt_share_low: float | None = None


@dataclass(frozen=True)
class Localization:
    """What the scores say about one (model, attribute): a row of ``localizations``, the effects and what to run next.

    Attributes:
        outcome: see `Outcome`; ``window_start`` and ``window_size`` are null unless it is ``localized``.
        best_start: start of the window that the outcome speaks of: of those of the smallest size at which one passes,
            not told apart from the strongest, the one that does least damage; where none passes, the one with the
            largest effect in range; for ``redundant`` the one whose sites alone keep most of the attribute.
        best_size: its size.
        site_names: sites of the picked window; empty without a pick or without names.
        relative_depth: centre of the picked window, 0 the first site and 1 the last.
        effect: effect of the best window; by ``window`` and ``sequential`` picked on a quarter of the grid and
            estimated on one that shares neither prompts nor seeds with it, where some quarter picks it too; null where
            there is nothing to take a share of.
        ci_low: two-sided interval of the best window's effect in these prompts; of ``window`` and ``sequential`` it
            holds for whichever window is best, of localizers that read traces it is that of the pick by itself.
        ci_high: its upper end.
        runner_up_start: start of the best window of the same size that shares no site with the best.
        runner_up_effect: its effect.
        tie_set: starts of the windows of that size that are not told apart from the best.
        sufficiency: share of the effect that stays when only the best window's sites read the prompt; null until the
            complement was run.
        damage: of the best window, see `Effect`.
        all_sites_effect: effect of swapping all sites; null where it was not run.
        about: which population the outcome is about.
        holds_in: in how many of the ``n_prompts`` prompts the best window's mean effect over the seeds reaches the
            threshold.
        prompt_share_low: exact lower bound of the share of prompts like these in which it does, with these seeds; it
            pays for the pick among all windows.
        cells: score rows that went in; of traces, pictures.
        exploratory: under 8 prompts or 4 seeds.
        reason: the outcome in one sentence.
        possible_size: the smallest size whose upper simultaneous bound reaches the threshold: where it is below
            ``window_size``, this budget does not resolve the size.
        effects: one row a swept window, by size and start.
        wants: cells that the answer should rest on, beyond those of the whole grid if that is planned at once. As long
            as some of them were never planned the answer is not final: they are run, and it is localized again.
    """

    model: str
    attribute: str
    attribute_kind: str
    mode: str
    localizer: str
    outcome: Outcome
    window_start: int | None
    window_size: int | None
    best_start: int | None
    best_size: int | None
    site_names: tuple[str, ...]
    relative_depth: float | None
    effect: float | None
    ci_low: float | None
    ci_high: float | None
    runner_up_start: int | None
    runner_up_effect: float | None
    tie_set: tuple[int, ...]
    sufficiency: float | None
    damage: float | None
    all_sites_effect: float | None
    threshold: float
    n_prompts: int
    n_seeds: int
    cells: int
    exploratory: bool
    reason: str
    possible_size: int | None
    effects: tuple[Effect, ...]
    wants: tuple[Request, ...]
    about: About = "these_pictures"
    holds_in: int | None = None
    prompt_share_low: float | None = None

    @property
    def words(self) -> str:
        """The outcome in words that claim no more than it carries, see `said`."""
        return said(self.outcome, self.about, self.n_prompts)

    @property
    def window(self) -> Window | None:
        """The picked window, if one was."""
        if self.window_start is None or self.window_size is None:
            return None
        return Window(self.window_start, self.window_size)


def name_of(localizer: str) -> str:
    """Returns a localizer's name in tables: its key, or its file's name, wherever the file lies."""
    return Path(localizer).stem if localizer.endswith(".py") else localizer


def relative_depth(window: Window, n_sites: int) -> float:
    """Centre of a window, 0 the first site of the model and 1 the last."""
    return (window.start + (window.size - 1) / 2) / max(n_sites - 1, 1)


class Localizer(Protocol):
    """A pure function from the scores of one (model, attribute) to the sites that control the attribute."""

    def __call__(self, scores: pa.Table, settings: LocalizeSettings, site_names: Sequence[str] = ()) -> Localization:
        """Localizes.

        Args:
            scores: rows of one (model, attribute), columns as in RESULTS/scores, or those of one method as in
                RESULTS/traces; the order of rows must not matter.
            settings: the ``localize:`` block.
            site_names: the model's sites in execution order; without them results carry no names, and the number of
                sites is taken from the ``all_sites`` rows.

        Raises:
            LocalizationError: columns or controls are missing, or rows do not belong together.
        """


class Begin(Protocol):
    """A pure function that says what a sequential localizer is to be given at first."""

    def __call__(self, grid: Grid, settings: LocalizeSettings) -> tuple[Request, ...]:
        """Asks for the cells to begin with."""


@dataclass(frozen=True)
class Rule:
    """What a localizer's file exports.

    Attributes:
        localize: see `Localizer`; with `begin` it is given the grid as a fourth argument.
        bounds: whether it gives bounds; a file without them says ``BOUNDS = False``, and its outcomes are about the
            pictures that were drawn.
        begin: where the file has it, nothing but what it and `Localization.wants` ask for is run; where it has not, the
            whole grid is.
    """

    localize: Callable[..., Localization]
    begin: Begin | None = None
    bounds: bool = True

    def __call__(
        self, scores: pa.Table, settings: LocalizeSettings, site_names: Sequence[str], grid: Grid | None
    ) -> Localization:
        """Localizes; arguments and errors as of `Localizer`, and the grid where it is known."""
        if self.begin is None:
            return self.localize(scores, settings, site_names)
        return self.localize(scores, settings, site_names, grid)


def rule(key: str) -> Rule:
    """Returns a localizer by its key or file.

    Raises:
        SpecError: there is no such localizer, or it has no function ``localize``.
    """
    module = registry.load("localizers", key)
    begin, bounds = getattr(module, "begin", None), getattr(module, "BOUNDS", True)
    return Rule(registry.function("localizers", key, "localize"), begin, bounds)
