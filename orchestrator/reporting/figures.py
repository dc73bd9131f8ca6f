"""The figures of a report as PDF, for a paper."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from orchestrator.reporting.findings import Finding, Findings

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SCOPES = {
    "localized": "#c2410c", "by_hand": "#7c3aed", "all_sites": "#0369a1", "window": "#94a3b8", "placebo": "#16a34a",
    "random": "#ca8a04",
}  # fmt: skip
"""Colour of each scope of edits, the same on the page."""
INCHES_A_ROW = 0.22


def pdfs(findings: Findings) -> dict[str, str]:
    """Returns every figure as a ``data:`` address, by file name."""
    from matplotlib.figure import Figure

    found = {}
    for model in findings.sites:
        for size in findings.spec.windows.sizes:
            figure = Figure(layout="constrained")
            if _heatmap(figure, findings, model, size):
                found[f"heatmap-{model}-{size}.pdf"] = figure
        figure = Figure(figsize=(5, 4), layout="constrained")
        if _plane(figure, [item for item in findings.items if item.block[0] == model]):
            found[f"edits-{model}.pdf"] = figure
    addresses = {}
    for name, figure in found.items():
        stream = io.BytesIO()
        figure.savefig(stream, format="pdf", metadata={"CreationDate": None})
        addresses[name] = "data:application/pdf;base64," + base64.b64encode(stream.getvalue()).decode()
    return addresses


def _heatmap(figure: Figure, findings: Findings, model: str, size: int) -> bool:
    import numpy as np

    cells = [
        (attribute, start, effect)
        for name, attribute, start, width, effect in zip(
            *(findings.effects[c] for c in ("model", "attribute", "window_start", "window_size", "effect")), strict=True
        )
        if (name, width) == (model, size)
    ]
    if not cells:
        return False
    attributes, starts = sorted({cell[0] for cell in cells}), sorted({cell[1] for cell in cells})
    values = np.full((len(attributes), len(starts)), np.nan)
    for attribute, start, effect in cells:
        values[attributes.index(attribute), starts.index(start)] = np.nan if effect is None else effect
    figure.set_size_inches(2.5 + 0.22 * len(starts), 1.4 + INCHES_A_ROW * len(attributes))
    axis = figure.subplots()
    # As one picture: 14,000 squares drawn one by one make a file of megabytes.
    mesh = axis.pcolormesh(values, cmap="Oranges", vmin=0, vmax=1, rasterized=values.size > 2000)
    axis.set_yticks(np.arange(len(attributes)) + 0.5, attributes, fontsize=7)
    axis.set_xticks(np.arange(len(starts)) + 0.5, [str(start) for start in starts], fontsize=7)
    axis.invert_yaxis()
    axis.set_xlabel(f"first site of a window of {size}")
    for item in findings.items:
        row = item.row
        if (row["model"], row["window_size"]) == (model, size) and row["attribute"] in attributes:
            axis.text(
                starts.index(row["window_start"]) + 0.5, attributes.index(row["attribute"]) + 0.5, "●", ha="center",
                va="center", color="white", fontsize=7,
            )  # fmt: skip
    figure.colorbar(mesh, label="effect")
    axis.set_title(model, fontsize=9)
    return True


def _plane(figure: Figure, items: Sequence[Finding]) -> bool:
    points: dict[str, list[tuple[float, float]]] = {}
    for item in items:
        for edit in item.edits:
            kept = edit.summary.neighbours_kept
            if kept.of:
                points.setdefault(edit.summary.scope, []).append((edit.summary.flipped.value, kept.value))
    if not points:
        return False
    axis = figure.subplots()
    for scope, pairs in points.items():
        x, y = zip(*pairs, strict=True)
        axis.scatter(x, y, s=22, color=SCOPES[scope], label=scope.replace("_", " "), alpha=0.8, edgecolors="none")
    axis.set(xlabel="flipped to the donor's class", ylabel="neighbours kept", xlim=(-0.03, 1.03), ylim=(-0.03, 1.03))
    axis.legend(fontsize=7)
    return True


def heatmap_data(findings: Findings) -> dict[str, dict[str, Any]]:
    """Returns effects by model as rows of attributes and columns of windows, with both ends of the intervals."""
    columns: Mapping[str, Sequence[Any]] = findings.effects
    found: dict[str, dict[str, Any]] = {}
    for model in findings.sites:
        at = [i for i, name in enumerate(columns["model"]) if name == model]
        if not at:
            continue
        windows = sorted({(columns["window_size"][i], columns["window_start"][i]) for i in at})
        attributes = sorted({columns["attribute"][i] for i in at})
        number = {window: i for i, window in enumerate(windows)}
        row_of = {name: i for i, name in enumerate(attributes)}
        grids: dict[str, list[list[float | None]]] = {
            name: [[None] * len(windows) for _ in attributes] for name in ("effect", "ci_low", "ci_high")
        }
        for i in at:
            x, y = number[columns["window_size"][i], columns["window_start"][i]], row_of[columns["attribute"][i]]
            for name, grid in grids.items():
                value = columns[name][i]
                grid[y][x] = None if value is None else round(value, 3)
        found[model] = {"attributes": attributes, "windows": [[start, size] for size, start in windows], **grids}
    return found
