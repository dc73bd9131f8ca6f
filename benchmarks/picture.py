"""Draws the README's picture from results with images: ``python benchmarks/picture.py demo-results docs/toy.png``."""

from __future__ import annotations

import io
import sys

import matplotlib as mpl
import numpy as np
import pandas as pd
from PIL import Image

mpl.use("Agg")
import matplotlib.pyplot as plt


def main(results: str, target: str) -> None:
    """Draws, a model and attribute, what windows of the size found do, in numbers and in pictures of one seed."""
    images = pd.read_parquet(f"{results}/images")
    effects = pd.read_parquet(f"{results}/effects")
    found = pd.read_parquet(f"{results}/localizations").sort_values(["model", "attribute"])
    # Of several localizers the one that edits follow.
    effects, found = (table[~table.beside.fillna(False).astype(bool)] for table in (effects, found))
    figure, axes = plt.subplots(
        len(found) * 2, 1, figsize=(13, 2.25 * len(found)), height_ratios=[1.15, 1] * len(found)
    )
    for row, (_, item) in enumerate(found.iterrows()):
        size = int(item.best_size) if pd.notna(item.best_size) else 2
        mine = effects[(effects.model == item.model) & (effects.attribute == item.attribute)]
        mine = mine[mine.window_size == size].sort_values("window_start")
        _bars(axes[2 * row], mine, item, size)
        pictures = images[(images.model == item.model) & (images.attribute == item.attribute)]
        _strip(axes[2 * row + 1], pictures, list(mine.window_start), size)
    figure.tight_layout(h_pad=0.4)
    figure.savefig(target, dpi=110)


def _bars(axis: plt.Axes, effects: pd.DataFrame, item: pd.Series, size: int) -> None:
    starts = effects.window_start.to_numpy()
    picked = {int(item.window_start)} if pd.notna(item.window_start) else set()
    colours = ["#c2410c" if start in picked else "#94a3b8" for start in starts]
    low, high = effects.effect - effects.ci_low, effects.ci_high - effects.effect
    axis.bar(starts, effects.effect, color=colours, yerr=np.clip([low, high], 0, None), ecolor="#334155", capsize=2)
    axis.axhline(item.threshold, color="#334155", linewidth=0.8, linestyle=":")
    axis.set_xlim(-3.5, 16.5)
    axis.set_ylim(min(0, float(effects.ci_low.min())) - 0.02, 1.15)
    axis.set_xticks(starts)
    axis.tick_params(labelsize=7, length=2)
    axis.set_ylabel("effect", fontsize=8)
    where = (
        f"sites {int(item.window_start)}-{int(item.window_start + item.window_size - 1)}"
        if item.outcome == "localized"
        else "no single window"
    )
    windows = f"effect of windows of {size} by first site, with intervals"
    title = f"{item.model}, {item.attribute}: {item.outcome}, {where}; {windows}"
    axis.set_title(title, fontsize=9, loc="left")
    for side in ("top", "right"):
        axis.spines[side].set_visible(False)


def _strip(axis: plt.Axes, images: pd.DataFrame, starts: list[int], size: int) -> None:
    first = images[images.control == "clean"].iloc[0]
    block = images[(images.prompt == first.prompt) & (images.seed == first.seed)]
    axis.set_xlim(-3.5, 16.5)
    axis.set_ylim(-0.5, 0.75)
    axis.axis("off")
    places = [(-3.0, "clean", block[block.control == "clean"]), (-2.0, "donor", block[block.control == "donor"])]
    windows = block[(block.control == "window") & (block.window_size == size)]
    places += [(float(start), "", windows[windows.window_start == start]) for start in starts]
    for x, label, rows in places:
        picture = Image.open(io.BytesIO(rows.iloc[0]["image"]["bytes"]))
        axis.imshow(
            np.asarray(picture), extent=(x - 0.46, x + 0.46, -0.46, 0.46), aspect="auto", interpolation="nearest"
        )
        axis.text(x, 0.52, label, ha="center", fontsize=7)
    axis.text(-2.5, -0.75, f'"{first.prompt}"', fontsize=7, ha="left")


if __name__ == "__main__":
    main(*sys.argv[1:])
