"""From a score table to the layers that control an attribute, with evidence. One file a localizer, its name is the key.

A localizer's file exports a function `localize` with the signature of `Localizer`: pure, and deterministic given
``settings.seed``. One that decides from a part of the grid and asks for more exports `begin` too, see `Rule`. It may
say further:

- ``READS``: which tracer's traces it reads in place of scores, see `loco_core.tracing.base`;
- ``BOUNDS = False``: that it gives no bounds, so that its outcomes are about the pictures that were drawn;
- ``SHARE``: what its effects are a share of, in words, e.g. ``removed``;
- ``METHODS``: what the report's text on methods says of it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Protocol, get_args

from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from loco_core import plugins
from loco_core.errors import LocalizationError, LocoError, first_line
from loco_core.types import Window

if TYPE_CHECKING:
    import pyarrow as pa

    from loco_core.localization.score_table import ScoreTable
    from loco_core.localization.trace_table import TraceTable

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


FEW_PROMPTS, FEW_SEEDS = 8, 4
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
    """The ``localize:`` block of a sweep."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    localizer: str = Field(
        "window",
        description="Localizer that edits follow: `window`, `sequential`, `argmin`, `attention_contribution`, "
        "`causal_tracing`, one that a package adds, or a Python file.",
        examples=["sequential"],
    )
    compare: tuple[str, ...] = Field(
        (), description="Further localizers to compare with it.", examples=[["argmin", "causal_tracing"]]
    )
    threshold: Annotated[float, Field(gt=0, le=1)] = Field(
        0.8,
        description="Share of the full effect (from clean picture to donor prompt) that a window must remove.",
        examples=[0.5],
    )
    max_share: Annotated[float, Field(gt=0, le=1)] = Field(
        0.25,
        description="Largest window that may be picked, as a share of a model's sites. `distributed` is said of "
        "windows up to this size.",
        examples=[0.1],
    )
    confidence: Annotated[float, Field(gt=0.5, lt=1)] = Field(
        0.95, description="Confidence of every bound and interval, as a share.", examples=[0.9]
    )
    resamples: Annotated[int, Field(ge=100)] = Field(
        1000,
        description="Bootstrap resamples of attributes, prompts and seeds behind a claim about a kind.",
        examples=[10000],
    )
    damage_share: Annotated[float, Field(ge=0, le=1)] = Field(
        0.1,
        description="A window that loses more content than this cannot be picked. It is a share of the difference "
        "between a picture's own content and unrelated content.",
        examples=[0.2],
    )
    seed: Annotated[int, Field(ge=0)] = Field(0, description="Seed of resamples and random splits.", examples=[1])
    screen: Annotated[int, Field(ge=4)] = Field(
        8,
        description="Number of (prompt, seed) pairs on which `sequential` tries a window first; it takes all prompts "
        "and at least two seeds.",
        examples=[16],
    )

    @property
    def localizers(self) -> tuple[str, ...]:
        """All localizers, the one that edits follow first."""
        return (self.localizer, *self.compare)

    @model_validator(mode="after")
    def _check(self) -> LocalizeSettings:
        names = [name_of(name) for name in self.localizers]
        for i, name in enumerate(names[1:]):
            if name in names[: i + 1]:
                context = {"name": name, "loc": ("compare", i)}
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

    Clean, donor and all-sites cells of the same prompts and seeds go with every request: they are what effects
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
    """What one window does to the attribute: a row of ``effects``, but for the names, which its localization has.

    A localizer leaves out what its rule does not know.

    Attributes:
        window_start: first site; of a text encoder's layer its number.
        window_size: how many.
        effect: share of the full effect that swapping the window has: 0 none, 1 as much as the donor prompt; null where
            there is no full effect to take a share of. A localizer that reads traces says what it is a share of.
        ci_low: two-sided interval of this window by itself, about these prompts.
        ci_high: its upper end.
        simultaneous_low: one-sided lower bound that holds for all swept windows together, about these prompts.
        damage: content lost against the donor prompt, as a share of the difference between own and unrelated content.
        eligible: not too damaging to be picked.
        in_tie_set: of the best window's size, and not told apart from it.
        n_prompts: prompts with cells; None stands for all that the localization is about.
        n_seeds: seeds with cells; likewise.
        flip_rate: of the images on the attribute's side, how many this window moves to the donor's side.
        component: ``denoiser``, or ``text_encoder`` of a layer that is no site.
        holds_in: in how many of the prompts the mean effect over the seeds reaches the threshold.
        prompt_share_low: exact lower bound, for all swept windows together, of the share of prompts like these in which
            it does, with these seeds.
    """

    window_start: int
    window_size: int
    effect: float | None = None
    ci_low: float | None = None
    ci_high: float | None = None
    simultaneous_low: float | None = None
    damage: float | None = None
    eligible: bool = True
    in_tie_set: bool = False
    n_prompts: int | None = None
    n_seeds: int | None = None
    flip_rate: float | None = None
    component: str = "denoiser"
    holds_in: int | None = None
    prompt_share_low: float | None = None

    @property
    def window(self) -> Window:
        """The window."""
        return Window(self.window_start, self.window_size)


@dataclass(frozen=True)
class Localization:
    """What the scores say about one (model, attribute): a row of ``localizations``, the effects and what to run next.

    `Localization.of` makes one of what a localizer knows; what it does not know keeps its default.

    Attributes:
        model: id of the model.
        attribute: key of the attribute.
        attribute_kind: its kind.
        mode: ``remove`` or ``replace``.
        outcome: see `Outcome`; ``window_start`` and ``window_size`` are null unless it is ``localized``.
        reason: the outcome in one sentence.
        localizer: name of the localizer; `Rule` fills it in.
        window_start: start of the picked window.
        window_size: its size.
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
        threshold: share of the full effect that was asked for; `Rule` fills it in.
        n_prompts: how many prompts it is about.
        n_seeds: how many seeds.
        cells: score rows that went in; of traces, pictures.
        exploratory: under 8 prompts or 4 seeds.
        possible_size: the smallest size whose upper simultaneous bound reaches the threshold: where it is below
            ``window_size``, this budget does not resolve the size.
        effects: one row per swept window, by size and start.
        wants: cells that the answer should rest on, beyond those of the whole grid if that is planned at once. As long
            as some of them were never planned the answer is not final: they are run, and it is localized again.
        about: which population the outcome is about.
        holds_in: in how many of the ``n_prompts`` prompts the best window's mean effect over the seeds reaches the
            threshold.
        prompt_share_low: exact lower bound of the share of prompts like these in which it does, with these seeds; it
            pays for the pick among all windows.
    """

    model: str
    attribute: str
    attribute_kind: str
    mode: str
    outcome: Outcome
    reason: str
    localizer: str = ""
    window_start: int | None = None
    window_size: int | None = None
    best_start: int | None = None
    best_size: int | None = None
    site_names: tuple[str, ...] = ()
    relative_depth: float | None = None
    effect: float | None = None
    ci_low: float | None = None
    ci_high: float | None = None
    runner_up_start: int | None = None
    runner_up_effect: float | None = None
    tie_set: tuple[int, ...] = ()
    sufficiency: float | None = None
    damage: float | None = None
    all_sites_effect: float | None = None
    threshold: float = 0.0
    n_prompts: int = 0
    n_seeds: int = 0
    cells: int = 0
    exploratory: bool = True
    possible_size: int | None = None
    effects: tuple[Effect, ...] = ()
    wants: tuple[Request, ...] = ()
    about: About = "these_pictures"
    holds_in: int | None = None
    prompt_share_low: float | None = None

    @classmethod
    def of(
        cls,
        measured: ScoreTable | TraceTable,
        outcome: Outcome,
        reason: str,
        *,
        best: Window | None = None,
        effects: Sequence[Effect] = (),
        **known: Any,
    ) -> Localization:
        """Says what a localizer found; names, counts, sites and depth follow from what was measured.

        Args:
            measured: the table that it was found in.
            outcome: see `Outcome`; the best window is the picked one if it is ``localized``.
            reason: the outcome in one sentence.
            best: the window that the outcome speaks of, if there is one.
            effects: one row per swept window. Effect, interval and damage of the best window, and the windows that are
                tied with it, are taken from them.
            known: any other field of a localization, in place of what follows from the above.
        """
        picked = best if outcome == "localized" else None
        prompts, seeds, names = len(measured.prompts), len(measured.seeds), measured.site_names
        rows = tuple(
            replace(
                row,
                n_prompts=prompts if row.n_prompts is None else row.n_prompts,
                n_seeds=seeds if row.n_seeds is None else row.n_seeds,
            )
            for row in effects
        )
        mine = [row for row in rows if best and (row.component, row.window_size) == ("denoiser", best.size)]
        tied = tuple(row.window_start for row in mine if row.in_tie_set)
        follows: dict[str, Any] = {
            "window_start": picked and picked.start,
            "window_size": picked and picked.size,
            "best_start": best and best.start,
            "best_size": best and best.size,
            "site_names": tuple(names[site] for site in picked.sites) if picked and names else (),
            "relative_depth": relative_depth(picked, measured.n_sites) if picked else None,
            "tie_set": tied or ((best.start,) if best else ()),
            "n_prompts": prompts,
            "n_seeds": seeds,
            "cells": measured.cells,
            "exploratory": exploratory(known.get("n_prompts", prompts), known.get("n_seeds", seeds)),
        }
        for row in mine:
            if best and row.window_start == best.start:
                follows |= {name: getattr(row, name) for name in ("effect", "ci_low", "ci_high", "damage", "holds_in")}
        names_of_it = (measured.model, measured.attribute, measured.attribute_kind, measured.mode)
        return cls(*names_of_it, outcome, reason, effects=rows, **{**follows, **known})

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


def exploratory(n_prompts: int, n_seeds: int) -> bool:
    """Tells whether there are too few prompts or seeds for more than exploration."""
    return n_prompts < FEW_PROMPTS or n_seeds < FEW_SEEDS


def in_words(localizer: str, name: str) -> str:
    """Returns what a localizer that a table names says of itself; nothing of a file, which is not run for that.

    Args:
        localizer: its name in tables.
        name: ``SHARE`` or ``METHODS``.
    """
    known = plugins.keys("localizers")
    return plugins.declared("localizers", localizer, name, "") if localizer in known else ""


def relative_depth(window: Window, n_sites: int) -> float:
    """Centre of a window, 0 the first site of the model and 1 the last."""
    return (window.start + (window.size - 1) / 2) / max(n_sites - 1, 1)


class Localizer(Protocol):
    """A pure function from the scores of one (model, attribute) to the sites that control the attribute."""

    def __call__(self, scores: pa.Table, settings: LocalizeSettings, site_names: Sequence[str] = ()) -> Localization:
        """Localizes.

        Args:
            scores: rows of one (model, attribute), columns as in RESULTS/scores, or those of one method as in
                RESULTS/traces; the order of rows must not matter. A sweep that runs gives those columns of scores that
                say which cell it is, its ``clip_score..``, ``margin_clean`` and ``status``.
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
        name: name of the localizer in tables; empty leaves what its file says.
    """

    localize: Callable[..., Localization]
    begin: Begin | None = None
    bounds: bool = True
    name: str = ""

    def __call__(
        self, scores: pa.Table, settings: LocalizeSettings, site_names: Sequence[str], grid: Grid | None
    ) -> Localization:
        """Localizes; arguments and errors as of `Localizer`, and the grid where it is known.

        Raises:
            LocalizationError: the file raised something else, or returned no localization of these sites.
        """
        more = () if self.begin is None else (grid,)
        try:
            found = self.localize(scores, settings, site_names, *more)
        except LocoError:
            raise
        except Exception as error:  # whatever a stranger's file raises; other attributes go on
            name = self.name or "the localizer"
            raise LocalizationError(f"{name}: localize raised {type(error).__name__}: {first_line(error)}") from error
        _check(found, self.name, len(site_names))
        return replace(found, localizer=self.name or found.localizer, threshold=settings.threshold)


def _check(found: object, name: str, n_sites: int) -> None:
    """Refuses what is no localization, or names an outcome or sites that there are not."""
    wrong = ""
    if not isinstance(found, Localization):
        wrong = f"returned {str(found)[:40]!r}; expected a Localization"
    elif found.outcome not in get_args(Outcome):
        wrong = f'gives the outcome "{found.outcome}"; expected one of {", ".join(get_args(Outcome))}'
    elif found.outcome == "localized" and found.window is None:
        wrong = "says localized and names no window; expected window_start and window_size"
    elif n_sites and found.window and not 0 <= found.window.start <= n_sites - found.window.size:
        wrong = f"picks sites {found.window.start} to {found.window.start + found.window.size - 1} of {n_sites}"
    if wrong:
        raise LocalizationError(f"{name or 'the localizer'}: localize {wrong}")


def rule(key: str) -> Rule:
    """Returns a localizer by its key or file.

    Raises:
        SpecError: there is no such localizer, or it has no function ``localize``.
    """
    module = plugins.load("localizers", key)
    begin, bounds = getattr(module, "begin", None), getattr(module, "BOUNDS", True)
    return Rule(plugins.function("localizers", key, "localize"), begin, bounds, name_of(key))
