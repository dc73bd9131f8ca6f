"""The figures of a report as PDF, for a paper."""

from __future__ import annotations

import base64
import io
import textwrap
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from orchestrator.reporting.findings import Finding, Findings
from orchestrator.reporting.shapes import Shape, shape_of, shapes

if TYPE_CHECKING:
    from matplotlib.figure import Figure

INCHES_A_ROW = 0.22
INCHES_A_LETTER = 0.08
TITLE_LETTERS = 60
Values = list[list[float | None]]


@dataclass(frozen=True)
class Grid:
    """Effects of one model, to four digits; None where a window was not swept or has no effect to speak of.

    Attributes:
        attributes: attributes of the rows.
        windows: start and size, of the columns.
        effect: the effects.
        ci_low: lower ends of their intervals.
        ci_high: upper ends.
    """

    attributes: list[str]
    windows: list[tuple[int, int]]
    effect: Values
    ci_low: Values
    ci_high: Values


def pdfs(findings: Findings, grids: Mapping[str, Grid]) -> dict[str, str]:
    """Returns every figure as a ``data:`` address, by file name.

    Args:
        findings: findings of the sweep.
        grids: effects by model, from :func:`effect_grids`.
    """
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    # Dollar signs in names are dollar signs.
    with rc_context({"text.parse_math": False, "text.usetex": False}), warnings.catch_warnings():
        # Of scripts that the font has not.
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        return _addresses(_figures(Figure, findings, grids))


def _figures(make: type[Figure], findings: Findings, grids: Mapping[str, Grid]) -> dict[str, Figure]:
    figures: dict[str, Figure] = {}
    marks = shapes(findings)
    for model, grid in grids.items():
        items = [item for item in findings.items if item.block[0] == model]
        for size in sorted({size for _, size in grid.windows}):
            figures[f"heatmap-{model}-{size}.pdf"] = _heatmap(make(layout="constrained"), model, grid, size, items)
        plane = make(figsize=(5, 4), layout="constrained")
        if _plane(plane, items, marks):
            figures[f"edits-{model}.pdf"] = plane
    return figures


def _addresses(figures: Mapping[str, Figure]) -> dict[str, str]:
    addresses = {}
    for name, figure in figures.items():
        stream = io.BytesIO()
        figure.savefig(stream, format="pdf", metadata={"CreationDate": None})
        addresses[name] = "data:application/pdf;base64," + base64.b64encode(stream.getvalue()).decode()
    return addresses


def _heatmap(figure: Figure, model: str, grid: Grid, size: int, items: Sequence[Finding]) -> Figure:
    import numpy as np

    at = [i for i, window in enumerate(grid.windows) if window[1] == size]
    starts = [grid.windows[i][0] for i in at]
    values = np.array([[row[i] for i in at] for row in grid.effect], dtype=float)
    room = max(1.5, INCHES_A_LETTER * max(map(len, grid.attributes)))
    figure.set_size_inches(1 + room + 0.22 * len(starts), 1.4 + INCHES_A_ROW * len(grid.attributes))
    axis = figure.subplots()
    # As one picture: 14,000 squares drawn one by one make a file of megabytes.
    mesh = axis.pcolormesh(values, cmap="Oranges", vmin=0, vmax=1, rasterized=values.size > 2000)
    axis.set_yticks(np.arange(len(grid.attributes)) + 0.5, grid.attributes, fontsize=7)
    axis.set_xticks(np.arange(len(starts)) + 0.5, [str(start) for start in starts], fontsize=7)
    axis.invert_yaxis()
    axis.set_xlabel(f"first site of a window of {size}")
    for row in (item.row for item in items):
        if row["window_size"] == size and row["attribute"] in grid.attributes and row["window_start"] in starts:
            x, y = starts.index(row["window_start"]) + 0.5, grid.attributes.index(row["attribute"]) + 0.5
            axis.text(x, y, "●", ha="center", va="center", color="white", fontsize=7)
    figure.colorbar(mesh, label="effect")
    axis.set_title("\n".join(textwrap.wrap(model, TITLE_LETTERS, drop_whitespace=False)), fontsize=9)
    return figure


def _plane(figure: Figure, items: Sequence[Finding], marks: Sequence[Shape]) -> bool:
    points: dict[str, list[tuple[float, float]]] = {}
    for item in items:
        for edit in item.edits:
            kept = edit.summary.neighbours_kept
            if kept.of:
                points.setdefault(shape_of(edit), []).append((edit.summary.flipped.value, kept.value))
    if not points:
        return False
    axis = figure.subplots()
    for mark in marks:
        if mark.name in points:
            x, y = zip(*points[mark.name], strict=True)
            axis.scatter(x, y, s=26, color=mark.colour, label=mark.name, marker=mark.marker, alpha=0.8)
    axis.set(xlabel="flipped to the donor's class", ylabel="neighbours kept", xlim=(-0.03, 1.03), ylim=(-0.03, 1.03))
    axis.legend(fontsize=7)
    return True


def effect_grids(findings: Findings) -> dict[str, Grid]:
    """Returns effects by model as rows of attributes and columns of windows."""
    columns = findings.effects
    found = {}
    for model in findings.sites:
        at = [i for i, name in enumerate(columns["model"]) if name == model]
        if not at:
            continue
        windows = sorted({(columns["window_size"][i], columns["window_start"][i]) for i in at})
        attributes = sorted({columns["attribute"][i] for i in at})
        number = {window: i for i, window in enumerate(windows)}
        row_of = {name: i for i, name in enumerate(attributes)}
        effect, low, high = (_unknown(attributes, windows) for _ in range(3))
        grid = Grid(attributes, [(start, size) for size, start in windows], effect, low, high)
        for i in at:
            x, y = number[columns["window_size"][i], columns["window_start"][i]], row_of[columns["attribute"][i]]
            for name in ("effect", "ci_low", "ci_high"):
                value = columns[name][i]
                getattr(grid, name)[y][x] = None if value is None else round(value, 4)
        found[model] = grid
    return found


def _unknown(rows: Sequence[object], columns: Sequence[object]) -> Values:
    return [[None] * len(columns) for _ in rows]
