"""Draws the figures of README.md and docs/ from the results of `loco-sweep demo`, each in a light and a dark version.

``python benchmarks/picture.py demo-results docs/images`` writes ``swap-light.png``, ``swap-light-narrow.png`` for
telephones, ``bounds-light.png``, and the same ``-dark``.
"""

from __future__ import annotations

import io
import sys
from dataclasses import dataclass
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pandas as pd
from PIL import Image

mpl.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

MODEL, ATTRIBUTE, OTHER = "toy-planted-a", "style/lumio", 4
USUAL = "toy"
_VALUES = ["effect", "ci_low", "ci_high"]
# Where clean and donor stand on the axis of windows.
CLEAN, DONOR = -1.9, 15.9
SIDE = 0.115
# Lower bounds below are drawn here.
FLOOR = -0.15


@dataclass(frozen=True)
class Theme:
    """Colours of one version."""

    ground: str
    ink: str
    faint: str
    bar: str
    pick: str


@dataclass(frozen=True)
class Layout:
    """Where things stand in the figure of swaps, in shares of it.

    Attributes:
        size: inches.
        title: its lines.
        head: top of the title.
        bars: left, bottom, width and height of the bars.
        columns: middle and bottom of each pair of pictures.
        side: side of a picture, of the width.
        every: windows from one label of the axis to the next.
        fonts: points of the title, of names and of the axis.
        leaders: lines lead from bars to their pictures.
    """

    size: tuple[float, float]
    title: str
    head: float
    bars: tuple[float, float, float, float]
    columns: tuple[tuple[float, float], ...]
    side: float
    every: int
    fonts: tuple[float, float, float]
    leaders: bool


LAYOUTS = {
    "": Layout(
        (12, 5.6), "Share of the style removed when a window of layers reads the donor prompt", 0.965,
        (0.045, 0.475, 0.95, 0.41), ((0.125, 0.012), (0.375, 0.012), (0.625, 0.012), (0.875, 0.012)), 0.115, 1,
        (18.5, 15.5, 12), True,
    ),
    "-narrow": Layout(
        (5.2, 6.6), "Share of the style removed when\na window of layers reads the donor prompt", 0.99,
        (0.075, 0.645, 0.91, 0.26), ((0.25, 0.3), (0.75, 0.3), (0.25, 0.008), (0.75, 0.008)), 0.235, 2,
        (14, 12, 10.5), False,
    ),
}  # fmt: skip
THEMES = {
    "light": Theme("#ffffff", "#1f2328", "#59636e", "#9aa7b5", "#c2410c"),
    "dark": Theme("#0d1117", "#f0f6fc", "#9198a1", "#6b7785", "#fb8147"),
}


def main(results: str, target: str) -> None:
    """Draws every figure in every theme."""
    plt.rcParams["font.family"] = "DejaVu Sans"
    for name, theme in THEMES.items():
        for suffix, layout in LAYOUTS.items():
            figure = swap(results, theme, layout)
            figure.savefig(Path(target) / f"swap-{name}{suffix}.png", dpi=150, facecolor=theme.ground)
        bounds(results, theme).savefig(Path(target) / f"bounds-{name}.png", dpi=150, facecolor=theme.ground)
        plt.close("all")


def swap(results: str, theme: Theme, layout: Layout) -> Figure:
    """Draws the effect of every window of the size that was found, and under it pictures of four of them."""
    found, effects = _found(results, MODEL), _effects(results, MODEL)
    start, size = int(found.window_start), int(found.window_size)
    effects = effects[effects.window_size == size].sort_values("window_start")
    # Of the window that was picked, what is reported of it: the pick is paid for.
    effects.loc[effects.window_start == start, _VALUES] = found[_VALUES].to_numpy()
    figure = plt.figure(figsize=layout.size)
    bars = figure.add_axes(layout.bars)
    bars.set_xlim(CLEAN - 1.3, DONOR + 1.0)
    _profile(bars, effects, theme, pick=start, threshold=float(found.threshold), font=layout.fonts[2])
    bars.bar([DONOR], [1], width=0.8, color="none", edgecolor=theme.faint, linewidth=1.5, linestyle="--")
    firsts = [first for first in effects.window_start if (first - start) % layout.every == 0]
    labels = ["none", *(f"{first}-{first + size - 1}" for first in firsts), "all"]
    bars.set_xticks([CLEAN, *firsts, DONOR], labels, fontsize=layout.fonts[2])
    figure.text(0.02, layout.head, layout.title, color=theme.ink, fontsize=layout.fonts[0], fontweight="bold", va="top")
    _pictures(figure, bars, results, effects, theme, layout, start, size)
    return figure


def bounds(results: str, theme: Theme) -> Figure:
    """Draws, of a model in which nothing is shown, each window's own interval and its simultaneous lower bound."""
    found, effects = _found(results, USUAL), _effects(results, USUAL)
    size = int(found.best_size)
    effects = effects[effects.window_size == size].sort_values("window_start")
    figure = plt.figure(figsize=(12, 4.8))
    axis = figure.add_axes((0.05, 0.14, 0.94, 0.74))
    _profile(axis, effects, theme, pick=None, threshold=float(found.threshold), font=13)
    axis.plot(
        effects.window_start, effects.simultaneous_low.clip(lower=FLOOR), linestyle="none", marker="^", markersize=11,
        color=theme.pick, label="lower bound for all windows at once",
    )  # fmt: skip
    axis.set_ylim(FLOOR - 0.05, 1.2)
    axis.set_xticks(effects.window_start, [f"{first}-{first + size - 1}" for first in effects.window_start])
    axis.set_xlabel("window of layers", color=theme.ink, fontsize=15)
    title = f"{ATTRIBUTE} in the model {USUAL}: {found.outcome}"
    figure.text(0.02, 0.92, title, color=theme.ink, fontsize=18.5, fontweight="bold")
    axis.legend(loc="upper left", fontsize=14, frameon=False, labelcolor=theme.ink, bbox_to_anchor=(0.1, 1.05))
    return figure


def _found(results: str, model: str) -> pd.Series:
    table = pd.read_parquet(f"{results}/localizations")
    return _followed(table[(table.model == model) & (table.attribute == ATTRIBUTE)]).iloc[0]


def _effects(results: str, model: str) -> pd.DataFrame:
    table = pd.read_parquet(f"{results}/effects")
    return _followed(table[(table.model == model) & (table.attribute == ATTRIBUTE)])


def _followed(table: pd.DataFrame) -> pd.DataFrame:
    """Keeps, of several localizers, the one that edits follow."""
    return table[~table.compared.fillna(False).astype(bool)]


def _profile(axis: Axes, effects: pd.DataFrame, theme: Theme, pick: int | None, threshold: float, font: float) -> None:
    """Draws one bar with its interval per window."""
    starts = effects.window_start.to_numpy()
    colours = [theme.pick if start == pick else theme.bar for start in starts]
    spread = np.clip([effects.effect - effects.ci_low, effects.ci_high - effects.effect], 0, None)
    axis.bar(
        starts, effects.effect, width=0.8, color=colours, yerr=spread, ecolor=theme.ink, capsize=5,
        error_kw={"linewidth": 1.6}, label="effect, with the window's own interval",
    )  # fmt: skip
    axis.set_facecolor(theme.ground)
    axis.axhline(threshold, color=theme.faint, linewidth=1.6, linestyle=":")
    axis.text(
        0.003,
        threshold + 0.04,
        f"threshold {threshold:g}",
        color=theme.faint,
        fontsize=font,
        transform=axis.get_yaxis_transform(),
    )
    axis.axhline(0, color=theme.faint, linewidth=1)
    axis.set_ylim(-0.12, 1.15)
    axis.set_yticks([0, 0.5, 1])
    axis.tick_params(length=0, labelsize=13, colors=theme.ink)
    for side in axis.spines.values():
        side.set_visible(False)


def _pictures(
    figure: Figure, bars: Axes, results: str, effects: pd.DataFrame, theme: Theme, layout: Layout, start: int,
    size: int,
) -> None:  # fmt: skip
    """Puts pictures of two prompts under no swap, another window, the found window and the donor prompt."""
    images = pd.read_parquet(f"{results}/images")
    images = images[(images.model == MODEL) & (images.attribute == ATTRIBUTE)]
    windows = images[(images.control == "window") & (images.window_size == size)]
    shown = (
        (CLEAN, images[images.control == "clean"], "prompt", "0 by definition", False),
        (OTHER, windows[windows.window_start == OTHER], *_words(effects, OTHER, size), False),
        (start, windows[windows.window_start == start], *_words(effects, start, size), True),
        (DONOR, images[images.control == "donor"], "donor prompt", "1 by definition", False),
    )
    seed = images.seed.min()
    prompts = list(dict.fromkeys(images[images.control == "clean"].prompt))[:2]
    height = layout.side * layout.size[0] / layout.size[1]
    line = layout.fonts[1] / 72 / layout.size[1] * 1.45
    for (middle, bottom), (bar, rows, name, effect, picked) in zip(layout.columns, shown, strict=True):
        colour = theme.pick if picked else theme.ink
        for number, prompt in enumerate(prompts):
            left = middle - layout.side - 0.002 + number * (layout.side + 0.004)
            axis = figure.add_axes((left, bottom, layout.side, height))
            picture = rows[(rows.prompt == prompt) & (rows.seed == seed)].iloc[0]
            pixels = Image.open(io.BytesIO(picture["image"]["bytes"])).resize((256, 256), Image.Resampling.LANCZOS)
            axis.imshow(pixels)
            axis.set_xticks([])
            axis.set_yticks([])
            for edge in axis.spines.values():
                edge.set(color=colour if picked else theme.faint, linewidth=2.5 if picked else 0.8)
        top, font = bottom + height + 0.35 * line, layout.fonts[1]
        figure.text(middle, top + line, name, ha="center", color=colour, fontsize=font, fontweight="bold")
        figure.text(middle, top, effect, ha="center", color=colour, fontsize=font)
        if layout.leaders:
            at = figure.transFigure.inverted().transform(bars.transData.transform((bar, 0)))[0]
            ends = [layout.bars[1] - 0.057, top + 2 * line]
            figure.add_artist(Line2D([at, middle], ends, color=colour, linewidth=1.5))


def _words(effects: pd.DataFrame, start: int, size: int) -> tuple[str, str]:
    row = effects[effects.window_start == start].iloc[0]
    numbers = [f"{value:.2f}".replace("-0.00", "0.00") for value in (row.effect, row.ci_low, row.ci_high)]
    return f"layers {start}-{start + size - 1} swapped", "{} [{}, {}]".format(*numbers)


if __name__ == "__main__":
    main(*sys.argv[1:])
