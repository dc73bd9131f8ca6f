"""Renders findings, pictures and figures into one HTML file."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib.resources import files
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from loco_core.localizers import said
from orchestrator.edit_summary import Share
from orchestrator.reporting.denoiser import draw
from orchestrator.reporting.figures import SCOPES, Grid, effect_grids, pdfs
from orchestrator.reporting.findings import Finding, Findings, MeasuredEdit, read_findings, sites
from orchestrator.reporting.pictures import Album
from orchestrator.reporting.published import beside
from orchestrator.spec import InterventionSpec
from orchestrator.store import Store, encode_page
from orchestrator.store.layout import REPORT

_LOCALIZED = (
    "model", "attribute", "outcome", "window_start", "window_size", "effect", "ci_low", "ci_high", "sufficiency",
    "damage", "about", "holds_in", "prompt_share_low", "n_prompts", "n_seeds", "localizer",
)  # fmt: skip
_SHARES = ("flipped", "paraphrased", "neighbours_kept", "unrelated_kept", "content_kept", "ceiling")
_TEMPLATES = "templates"


def write_report(store: Store, running: str = "") -> str:
    """Writes ``report.html`` into a results root, over the one that is there.

    Args:
        store: the results.
        running: how far a sweep that still runs is; empty where it is over.

    Returns:
        where it is.

    Raises:
        StoreError: the root holds no sweep, is damaged, or cannot be written.
    """
    store.blobs.replace(REPORT, encode_page(render(store, read_findings(store), running)))
    return f"{store.root}/{REPORT}"


def render(store: Store, findings: Findings, running: str) -> str:
    """Returns the page."""
    from plotly.offline import get_plotlyjs

    album, grids = Album(store, findings), effect_grids(findings)
    strips = {item.block: album.interventions(item) for item in findings.items}
    before_after = {item.block: rows for item in findings.items if (rows := album.edits(item))}
    environment = Environment(
        loader=PackageLoader("orchestrator.reporting"), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    environment.filters["span"] = lambda window: sites(*window)
    environment.filters["sites"] = lambda row: sites(row["window_start"], row["window_size"])
    environment.filters["said"] = lambda row: said(row["outcome"], row["about"], row["n_prompts"] or 0)
    environment.filters["about"] = lambda row: (row["about"] or "these_pictures").replace("_", " ")
    return environment.get_template("report.html.jinja").render(
        findings=findings,
        beside=beside(findings, store),
        running=running,
        default_intervention=InterventionSpec(),
        strips={block: row for block, row in strips.items() if row},
        before_after=before_after,
        album_full=album.full,
        drawings={model: draw(names) for model, names in findings.sites.items()},
        pdfs=pdfs(findings, grids),
        data=Markup(_as_json(_data(findings, grids))),
        plotly=Markup(get_plotlyjs()),
        style=Markup(_asset("report.css")),
        script=Markup(_asset("report.js")),
    )


def _asset(name: str) -> str:
    return (files("orchestrator.reporting") / _TEMPLATES / name).read_text(encoding="utf-8")


def _as_json(data: Any) -> str:
    """JSON that cannot end the script element it stands in."""
    return json.dumps(data, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")


def _data(findings: Findings, grids: Mapping[str, Grid]) -> dict[str, Any]:
    edits = [_edit(item, edit) for item in findings.items for edit in item.edits]
    return {
        "name": findings.spec.name,
        "threshold": findings.spec.localize.threshold,
        "effects": {model: asdict(grid) for model, grid in grids.items()},
        "picked": [
            [*item.block, item.row["window_start"], item.row["window_size"]]
            for item in findings.items
            if item.row["window_start"] is not None
        ],
        "scopes": SCOPES,
        "edits": edits,
        "localizations": {
            "columns": _LOCALIZED,
            "rows": [[row[name] for name in _LOCALIZED] for item in findings.items for row in item.rows],
        },
    }


def _edit(item: Finding, edit: MeasuredEdit) -> dict[str, Any]:
    row, summary = edit.row, edit.summary
    names: Sequence[str] = (
        "model", "attribute", "editor", "targets", "scope", "window_start", "window_size", "tokens", "lambda",
        "lambda_absolute", "neurons", "guidance_half", "norm",
        "chosen", "localization",
    )  # fmt: skip
    return {
        "edit_id": summary.edit_id[:12],
        **{name: row[name] for name in names},
        "name": summary.name,
        "label": edit.label,
        **{name: _share(getattr(summary, name)) for name in _SHARES},
    }


def _share(share: Share) -> list[float]:
    """Value, both ends of the interval, and the count that it is a share of."""
    return [round(share.value, 4), round(share.low, 4), round(share.high, 4), share.of]
