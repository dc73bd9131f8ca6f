"""Score tables with a declared truth and declared noise, to hold localizers against.

Cosines, not pictures, are simulated: margin = prompt + seed + image noise, minus the window's effect times the full
effect of the prompt, where the effect itself differs by prompt and by seed, or takes place in an image or does not.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa

from loco_core.localization.base import Outcome
from loco_core.localization.bench.truths import KINDS, Layout, Truth, truth_of
from loco_core.statistics import Floats
from loco_core.types import Window

THRESHOLD = 0.8


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
        odd: the declared window differs in both, and in its images, by this factor beside.
        flips: correlation within prompts of images that lose all of the attribute or none of it: the effect of a window
            is then how often they do, and prompts differ by a beta distribution. 0 has effects of degrees.
        by_seed: correlation of such images over prompts with the same seed.
        unlike: the full effect of every second prompt is larger, and that of the others smaller, by this share.
        offset: offset of all margins, as where a text pair puts every image on one side.
        heavy: images deviate by Student's t with 3 degrees of freedom, of the same standard deviation.
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
    odd: float = 1.0
    flips: float = 0.0
    by_seed: float = 0.0
    unlike: float = 0.0
    offset: float = 0.0
    heavy: bool = False
    image: float = 0.012
    content: float = 0.01
    content_range: float = 0.1


@dataclass(frozen=True)
class SimulatedTable:
    """One table with its truth.

    Attributes:
        kind: kind of truth, one of `KINDS`.
        outcomes: outcomes that a localizer may report; the first is the answer that enough images would give.
        window: the window to be found, where there is one.
        effects: true effect of every window of the layout, over prompts like these.
        here: true effect of every window in the prompts of the table, over all seeds.
        shares: share of prompts like these in which every window's mean effect over the table's seeds would be seen to
            reach `THRESHOLD`.
        declared: a window chosen without looking at the scores, on which intervals are checked: the one to be found,
            else a drawn one.
        full: there is an attribute to take effects of.
        scores: rows without complements.
        complement_scores: rows of the complement of every window, to be added as far as they are asked for.
        layout: layout of the windows.
    """

    kind: str
    outcomes: tuple[Outcome, ...]
    window: Window | None
    effects: Floats
    here: Floats
    shares: Floats
    declared: int
    full: bool
    scores: pa.Table
    complement_scores: pa.Table
    layout: Layout

    def without_scores(self) -> SimulatedTable:
        """The truth alone: two thousand tables need not be kept."""
        # Not a slice of none: that would keep what it was cut from.
        return replace(
            self, scores=self.scores.schema.empty_table(), complement_scores=self.scores.schema.empty_table()
        )

    def with_complements(self, windows: Sequence[Window]) -> pa.Table:
        """The scores with the complements of these windows added, as a sweep would after it was asked."""
        every = self.layout.windows
        wanted = [every.index(window) for window in windows]
        pairs = self.complement_scores.num_rows // len(every)
        rows = np.concatenate([np.arange(pairs) * len(every) + column for column in wanted])
        return pa.concat_tables([self.scores, self.complement_scores.take(rows)])


_SHARES = (0.4, 0.12, 0.08, 0.08, 0.08, 0.06, 0.04, 0.04, 0.05, 0.05)
SIZES = tuple((prompts, seeds) for prompts in (8, 10, 12) for seeds in (4, 6, 8))
"""Prompts and seeds of the tables, each as often as the others."""
LIKE_THESE = 2000
"""Prompts that are drawn beside those of a table, to know the share in which a window holds."""


def simulated_tables(
    count: int = 2000,
    seed: int = 0,
    noise: Noise | None = None,
    layout: Layout | None = None,
    sizes: Sequence[tuple[int, int]] = SIZES,
) -> Iterator[SimulatedTable]:
    """Draws tables of some numbers of prompts and seeds, two fifths of them with one window to be found."""
    noise = noise or Noise()
    for number in range(count):
        rng = np.random.default_rng([seed, number])
        yield simulated_table(str(rng.choice(KINDS, p=_SHARES)), rng, noise, layout, sizes)


def simulated_table(
    kind: str,
    rng: np.random.Generator,
    noise: Noise,
    layout: Layout | None = None,
    sizes: Sequence[tuple[int, int]] = SIZES,
) -> SimulatedTable:
    """Draws one table of a truth kind."""
    layout = layout or Layout()
    truth, windows = truth_of(kind, rng, layout), layout.windows
    prompts, seeds = sizes[int(rng.integers(len(sizes)))]
    drawn = int(rng.integers(len(windows)))
    declared = drawn if truth.window is None else windows.index(truth.window)
    scores, complements, here, shares = _scores(truth, (prompts, seeds), declared, rng, noise, layout)
    return SimulatedTable(
        kind, truth.outcomes, truth.window, truth.effects, here, shares, declared, truth.full_effect > 0,
        scores, complements, layout,
    )  # fmt: skip


class _Drawer:
    """Draws margins of some prompts and seeds; seeds are the same for all prompts."""

    def __init__(self, effects: Floats, seeds: int, declared: int, rng: np.random.Generator, noise: Noise) -> None:
        self._effects, self._seeds, self._rng, self._noise = effects, seeds, rng, noise
        count = len(effects)
        self._varies = rng.uniform(1 - noise.uneven, 1 + noise.uneven, count) / noise.full_effect
        self.image_factor = np.ones(count)
        self._varies[declared] *= noise.odd
        self.image_factor[declared] *= noise.odd
        self._of_seed = rng.random((1, seeds, 1))
        self._by_seed = noise.window_seed * self._varies * rng.standard_normal((1, seeds, count))

    def image_noise(self, shape: tuple[int, ...]) -> Floats:
        """Returns deviations of single images."""
        if self._noise.heavy:
            return np.asarray(self._noise.image * self._rng.standard_t(3, shape) / 3**0.5)
        return np.asarray(self._noise.image * self._rng.standard_normal(shape))

    def shares(self, prompts: int) -> tuple[Floats, Floats]:
        """Returns effects of images ``(P, S, W)`` and of prompts over all seeds ``(P, W)``."""
        count = len(self._effects)
        if self._noise.flips:
            rates, shape = self._rates(prompts), (prompts, self._seeds, count)
            # Images of a seed that go together read one number.
            together = self._rng.random((prompts, self._seeds, 1)) < self._noise.by_seed**0.5
            drawn = np.where(together, self._of_seed, self._rng.random(shape))
            return (drawn < rates[:, None]).astype(np.float64), rates
        spread = self._noise.window_prompt * self._varies * self._rng.standard_normal((prompts, count))
        own = self._effects + spread
        return own[:, None] + self._by_seed, own

    def _rates(self, prompts: int) -> Floats:
        """Returns how often images of each prompt flip ``(P, W)``."""
        mean, spread = np.clip(self._effects, 1e-9, 1 - 1e-9), 1 / self._noise.flips - 1
        drawn = self._rng.beta(mean * spread, (1 - mean) * spread, (prompts, len(mean)))
        certain = (self._effects <= 0) | (self._effects >= 1)
        return np.where(certain, np.clip(self._effects, 0, 1), drawn)

    def full(self, prompts: int, size: float) -> Floats:
        """Returns the full effect of every prompt ``(P, 1, 1)``."""
        spread = self._noise.prompt_full * self._rng.standard_normal((prompts, 1, 1))
        unlike = 1 + self._noise.unlike * np.where(np.arange(prompts) % 2, 1, -1)[:, None, None]
        return np.asarray(size * unlike * (self._noise.full_effect + spread))

    def holding(self, size: float) -> Floats:
        """Returns the share of prompts like these in which every window is seen to reach the threshold."""
        if size <= 0:
            return np.zeros(len(self._effects))
        share, _ = self.shares(LIKE_THESE)
        full = self.full(LIKE_THESE, size)
        clean, donor = (self.image_noise((LIKE_THESE, self._seeds, 1)) for _ in range(2))
        lost = (clean + share * full - self.image_noise(share.shape) * self.image_factor).sum(axis=1)
        whole = (clean + full - donor).sum(axis=1)
        return np.asarray(((whole > 0) & (lost >= THRESHOLD * whole)).mean(axis=0))


def _scores(
    truth: Truth, size: tuple[int, int], declared: int, rng: np.random.Generator, noise: Noise, layout: Layout
) -> tuple[pa.Table, pa.Table, Floats, Floats]:
    """Returns rows, rows of complements, effects in these prompts, and shares of prompts like these."""
    (prompts, seeds), windows = size, list(layout.windows)
    swept = _Drawer(truth.effects, seeds, declared, rng, noise)
    full = swept.full(prompts, truth.full_effect)
    base = truth.clean_margin + noise.offset + noise.prompt * rng.standard_normal((prompts, 1, 1))
    base = base + noise.seed * rng.standard_normal((1, seeds, 1))
    share, own = swept.shares(prompts)
    margins = base - share * full + swept.image_noise(share.shape) * swept.image_factor
    fixed = base - np.array([0.0, 1.0, 1.0]) * full + swept.image_noise((prompts, seeds, 3))
    whole = full[:, :, 0].sum()
    here = (own * full[:, :, 0]).sum(axis=0) / whole if whole else np.zeros(len(windows))
    lost = np.where(truth.effects >= THRESHOLD, truth.damage, 0.0)
    main = _rows(
        ["clean", "donor", "all_sites"] + ["window"] * len(windows),
        [None, None, None, *windows],
        np.concatenate([fixed, margins], axis=2),
        np.concatenate([np.zeros(3), lost]),
        rng,
        noise,
        layout,
    )
    without, _ = _Drawer(truth.kept, seeds, declared, rng, noise).shares(prompts)
    left = base - without * full + swept.image_noise(without.shape)
    rest = _rows(["complement"] * len(windows), windows, left, np.zeros(len(windows)), rng, noise, layout)
    return main, rest, here, swept.holding(truth.full_effect)


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

    def per_pair(values: Sequence[object], kind: pa.DataType) -> pa.Array[Any]:
        return pa.array(values, kind).take(np.tile(np.arange(width), pairs))

    def constant(value: str) -> pa.DictionaryArray[Any, Any]:
        return pa.DictionaryArray.from_arrays(np.zeros(pairs * width, np.int32), pa.array([value]))

    prompt_codes = np.repeat(np.arange(prompts, dtype=np.int32), seeds * width)
    return pa.table(
        {
            "model": constant("simulated"),
            "attribute": constant("style/simulated"),
            "attribute_kind": constant("style"),
            "mode": constant("remove"),
            "prompt_id": pa.DictionaryArray.from_arrays(prompt_codes, pa.array([f"p{i:02}" for i in range(prompts)])),
            "seed": pa.array(np.tile(np.repeat(np.arange(seeds), width), prompts)),
            "control": pa.DictionaryArray.from_arrays(np.tile(codes.astype(np.int32), pairs), pa.array(names.tolist())),
            "window_start": per_pair([w.start if w else None for w in windows], pa.int32()),
            "window_size": per_pair([w.size if w else None for w in windows], pa.int32()),
            "site_indices": per_pair([every if c == "all_sites" else [] for c in controls], pa.list_(pa.int32())),
            "clip_score": pa.array((0.25 + margins / 2).reshape(-1)),
            "clip_score_donor": pa.array((0.25 - margins / 2).reshape(-1)),
            "clip_score_content": pa.array(content.reshape(-1)),
            "clip_score_unrelated": per_pair([unrelated if c == "clean" else None for c in controls], pa.float64()),
            "status": constant("ok"),
        }
    )
