"""Score tables with a declared truth and declared noise, to hold localizers against.

Cosines, not pictures, are simulated: margin = prompt + seed + image noise, minus the window's effect times the full
effect of the prompt, where the effect itself differs by prompt and by seed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from loco_core.localizers import Outcome
from loco_core.statistics import Floats
from loco_core.types import Window


@dataclass(frozen=True)
class Layout:
    """Which windows of which model are simulated.

    Attributes:
        sites: of the model.
        largest: all sizes from 1 to this one are swept.
    """

    sites: int = 16
    largest: int = 4

    @property
    def windows(self) -> tuple[Window, ...]:
        """All windows, by size and start."""
        sizes = range(1, self.largest + 1)
        return tuple(Window(start, size) for size in sizes for start in range(self.sites - size + 1))


LAYOUTS = {16: Layout(), 70: Layout(70, 8)}
"""By number of sites: Stable Diffusion 1 and 2, Stable Diffusion XL."""
SITES, WINDOWS = Layout().sites, Layout().windows
THRESHOLD = 0.8
REACHED = 0.95
"""True effect of a window that holds all that must be swapped."""


@dataclass(frozen=True)
class Noise:
    """Standard deviations in cosine, where the full effect is 0.1 unless said otherwise.

    Attributes:
        full_effect: mean margin of clean images minus that of donor images.
        prompt_full: how the full effect differs by prompt.
        prompt: margin of a prompt, common to all its images.
        seed: margin of a seed, common to all its images.
        window_prompt: how the effect of a window differs by prompt.
        window_seed: how it differs by seed.
        uneven: windows differ in both by a factor drawn from ``1 - uneven .. 1 + uneven``.
        image: margin of one image, independent.
        content: content score of one image, independent; own minus unrelated content is `content_range`.
        content_range: cosine of an image with its own content text minus that with others'.
    """

    full_effect: float = 0.1
    prompt_full: float = 0.015
    prompt: float = 0.02
    seed: float = 0.01
    window_prompt: float = 0.006
    window_seed: float = 0.004
    uneven: float = 0.5
    image: float = 0.012
    content: float = 0.01
    content_range: float = 0.1


@dataclass(frozen=True)
class SimulatedTable:
    """One table with its truth.

    Attributes:
        kind: which truth, see `KINDS`.
        outcomes: what a localizer may say of it; the first is the answer that enough images would give.
        window: the window to be found, where there is one.
        effects: true effect of every window of the layout.
        kept: true effect of swapping everything but a window, for every window of the layout.
        declared: a window chosen without looking at the scores, on which intervals are checked: the one to be found,
            else a drawn one.
        scores: rows without complements.
        complement_scores: rows of the complement of every window, to be added as far as they are asked for.
        layout: which windows there are.
    """

    kind: str
    outcomes: tuple[Outcome, ...]
    window: Window | None
    effects: Floats
    kept: Floats
    declared: int
    scores: pa.Table
    complement_scores: pa.Table
    layout: Layout

    def without_scores(self) -> SimulatedTable:
        """The truth alone: two thousand tables need not be kept."""
        return replace(self, scores=self.scores.slice(0, 0), complement_scores=self.complement_scores.slice(0, 0))

    def with_complements(self, windows: Sequence[Window]) -> pa.Table:
        """The scores with the complements of these windows added, as a sweep would after it was asked."""
        every = self.layout.windows
        wanted = [every.index(window) for window in windows]
        pairs = self.complement_scores.num_rows // len(every)
        rows = np.concatenate([np.arange(pairs) * len(every) + column for column in wanted])
        return pa.concat_tables([self.scores, self.complement_scores.take(rows)])


@dataclass(frozen=True)
class _Truth:
    outcomes: tuple[Outcome, ...]
    effects: Floats
    kept: Floats
    window: Window | None = None
    full_effect: float = 1.0
    clean_margin: float = 0.05
    damage: float = 0.0


KINDS = (
    "single",
    "all_at_0.70",
    "all_at_0.79",
    "two_disjoint",
    "redundant",
    "distributed",
    "graded",
    "damaging",
    "absent",
    "no_effect",
)
_SHARES = (0.4, 0.12, 0.08, 0.08, 0.08, 0.06, 0.04, 0.04, 0.05, 0.05)
_UNRESOLVED: Outcome = "inconclusive"


def simulated_tables(
    count: int = 2000, seed: int = 0, noise: Noise | None = None, layout: Layout | None = None
) -> Iterator[SimulatedTable]:
    """Draws tables of 8 to 12 prompts and 4 to 8 seeds, two fifths of them with one window to be found."""
    noise = noise or Noise()
    for number in range(count):
        rng = np.random.default_rng([seed, number])
        yield simulated_table(str(rng.choice(KINDS, p=_SHARES)), rng, noise, layout)


def simulated_table(kind: str, rng: np.random.Generator, noise: Noise, layout: Layout | None = None) -> SimulatedTable:
    """Draws one table of a truth kind."""
    layout = layout or Layout()
    truth, windows = _truth(kind, rng, layout), layout.windows
    prompts, seeds = int(rng.choice([8, 10, 12])), int(rng.choice([4, 6, 8]))
    drawn = int(rng.integers(len(windows)))
    declared = drawn if truth.window is None else windows.index(truth.window)
    scores, complements = _scores(truth, prompts, seeds, rng, noise, layout)
    return SimulatedTable(
        kind, truth.outcomes, truth.window, truth.effects, truth.kept, declared, scores, complements, layout
    )


def _truth(kind: str, rng: np.random.Generator, layout: Layout) -> _Truth:
    sites = layout.sites
    if kind in ("single", "damaging"):
        size = int(rng.integers(1, layout.largest + 1))
        window = Window(int(rng.integers(0, sites - size + 1)), size)
        effects, kept = _needed([window.sites], float(rng.uniform(1, 2)), layout)
        if kind == "damaging":
            return _Truth(("damaging",), effects, kept, damage=0.4)
        return _Truth(("localized",), effects, kept, window=window)
    if kind in ("all_at_0.70", "all_at_0.79"):
        level = np.full(len(layout.windows), float(kind[-4:]))
        return _Truth(("distributed", _UNRESOLVED), level, level)
    if kind == "two_disjoint":
        size = int(rng.integers(1, layout.largest))
        starts = int(rng.integers(0, sites // 3)), int(rng.integers(sites // 2, 3 * sites // 4))
        effects, kept = _needed([Window(start, size).sites for start in starts], 1.5, layout)
        return _Truth(("multiple",), effects, kept)
    if kind == "redundant":
        pair = (int(rng.integers(0, 3 * sites // 8)), int(rng.integers(5 * sites // 8, sites)))
        alone = rng.uniform(0.0, 0.35, 2)
        return _Truth(("redundant", _UNRESOLVED), *_either(pair, alone, layout))
    if kind == "distributed":
        scattered = rng.permutation(sites)[: int(rng.integers(3 * sites // 8, 13 * sites // 16))]
        return _Truth(("distributed", _UNRESOLVED), *_additive(scattered, layout))
    if kind == "graded":
        return _Truth(("distributed", _UNRESOLVED), *_graded(int(rng.integers(0, sites)), layout))
    noise_only = np.zeros(len(layout.windows))
    if kind == "absent":
        return _Truth(("absent",), noise_only, noise_only, full_effect=0.0, clean_margin=-0.05)
    return _Truth(("no_effect",), noise_only, noise_only, full_effect=0.0)


def _needed(groups: Sequence[tuple[int, ...]], power: float, layout: Layout) -> tuple[Floats, Floats]:
    """Swapping all of any group removes the attribute; swapping a share of it removes that share to a power."""

    def effect(swapped: set[int]) -> float:
        return REACHED * float(max((len(swapped & set(group)) / len(group)) ** power for group in groups))

    return _over_windows(effect, layout)


def _either(pair: tuple[int, int], alone: Floats, layout: Layout) -> tuple[Floats, Floats]:
    """Either of two sites draws the attribute: swapping one removes little, swapping both removes it."""

    def effect(swapped: set[int]) -> float:
        gone = [site in swapped for site in pair]
        return REACHED if all(gone) else float(max([0.0, *alone[gone]]))

    return _over_windows(effect, layout)


def _additive(sites: NDArray[np.int64], layout: Layout) -> tuple[Floats, Floats]:
    """Each of many sites removes an equal part."""
    chosen = {int(site) for site in sites}

    def effect(swapped: set[int]) -> float:
        return REACHED * len(swapped & chosen) / len(chosen)

    return _over_windows(effect, layout)


def _graded(strong: int, layout: Layout) -> tuple[Floats, Floats]:
    """One site removes most, all others together the rest: keeping most by itself is then no redundancy."""

    def effect(swapped: set[int]) -> float:
        return 0.6 * (strong in swapped) + (REACHED - 0.6) * len(swapped - {strong}) / (layout.sites - 1)

    return _over_windows(effect, layout)


def _over_windows(effect: Callable[[set[int]], float], layout: Layout) -> tuple[Floats, Floats]:
    """Effects of swapping every window, and of swapping everything but it."""
    everything = set(range(layout.sites))
    swapped = np.array([effect(set(window.sites)) for window in layout.windows])
    rest = np.array([effect(everything - set(window.sites)) for window in layout.windows])
    return swapped, rest


def _scores(
    truth: _Truth, prompts: int, seeds: int, rng: np.random.Generator, noise: Noise, layout: Layout
) -> tuple[pa.Table, pa.Table]:
    grid, windows = (prompts, seeds), list(layout.windows)
    full = truth.full_effect * (noise.full_effect + noise.prompt_full * rng.standard_normal((prompts, 1, 1)))
    base = truth.clean_margin + noise.prompt * rng.standard_normal((prompts, 1, 1))
    base = base + noise.seed * rng.standard_normal((1, seeds, 1))

    def margins(effects: Floats, varies: bool = True) -> Floats:
        share = np.broadcast_to(effects, (*grid, len(effects))).copy()
        if varies:
            unit = noise.full_effect / rng.uniform(1 - noise.uneven, 1 + noise.uneven, len(effects))
            share += noise.window_prompt / unit * rng.standard_normal((prompts, 1, len(effects)))
            share += noise.window_seed / unit * rng.standard_normal((1, seeds, len(effects)))
        return np.asarray(base - share * full + noise.image * rng.standard_normal(share.shape))

    fixed = margins(np.array([0.0, 1.0, 1.0]), varies=False)
    lost = np.where(truth.effects >= THRESHOLD, truth.damage, 0.0)
    main = _rows(
        ["clean", "donor", "all_sites"] + ["window"] * len(windows),
        [None, None, None, *windows],
        np.concatenate([fixed, margins(truth.effects)], axis=2),
        np.concatenate([np.zeros(3), lost]),
        rng,
        noise,
        layout,
    )
    controls, unharmed = ["complement"] * len(windows), np.zeros(len(windows))
    rest = _rows(controls, windows, margins(truth.kept), unharmed, rng, noise, layout)
    return main, rest


def _rows(
    controls: Sequence[str],
    windows: Sequence[Window | None],
    margins: Floats,
    damage: Floats,
    rng: np.random.Generator,
    noise: Noise,
    layout: Layout,
) -> pa.Table:
    prompts, seeds, width = margins.shape
    pairs = prompts * seeds
    unrelated = 0.15
    own = unrelated + noise.content_range * (1 - damage)
    content = own + noise.content * rng.standard_normal(margins.shape)
    every = list(range(layout.sites))
    names, codes = np.unique(controls, return_inverse=True)

    def per_pair(values: Sequence[object], kind: pa.DataType) -> pa.Array:
        return pa.array(values, kind).take(pa.array(np.tile(np.arange(width), pairs)))

    def constant(value: str) -> pa.DictionaryArray:
        return pa.DictionaryArray.from_arrays(pa.array(np.zeros(pairs * width, np.int32)), pa.array([value]))

    prompt_codes = np.repeat(np.arange(prompts, dtype=np.int32), seeds * width)
    return pa.table(
        {
            "model": constant("simulated"),
            "attribute": constant("style/simulated"),
            "attribute_kind": constant("style"),
            "mode": constant("remove"),
            "prompt_id": pa.DictionaryArray.from_arrays(prompt_codes, pa.array([f"p{i:02}" for i in range(prompts)])),
            "seed": np.tile(np.repeat(np.arange(seeds), width), prompts),
            "control": pa.DictionaryArray.from_arrays(np.tile(codes.astype(np.int32), pairs), pa.array(names.tolist())),
            "window_start": per_pair([w.start if w else None for w in windows], pa.int32()),
            "window_size": per_pair([w.size if w else None for w in windows], pa.int32()),
            "site_indices": per_pair([every if c == "all_sites" else [] for c in controls], pa.list_(pa.int32())),
            "clip_score": (0.25 + margins / 2).reshape(-1),
            "clip_score_donor": (0.25 - margins / 2).reshape(-1),
            "clip_score_content": content.reshape(-1),
            "clip_score_unrelated": per_pair([unrelated if c == "clean" else None for c in controls], pa.float64()),
            "status": constant("ok"),
        }
    )
