"""Renders findings, pictures and figures into one HTML file."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib.resources import files
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from loco_core.editing.base import info_of_results
from loco_core.localization.base import in_words
from orchestrator.reporting.attacks import attack_lines, attack_words
from orchestrator.reporting.bill import bill
from orchestrator.reporting.cards import SHARES, cards, counted
from orchestrator.reporting.figures import Grid, effect_grids, pdfs
from orchestrator.reporting.findings import Finding, Findings, MeasuredEdit, read_findings, sites
from orchestrator.reporting.pictures import Album
from orchestrator.reporting.published import beside
from orchestrator.reporting.shapes import shape_of, shapes
from orchestrator.reporting.triangle import colours
from orchestrator.reporting.verdicts import badge
from orchestrator.runs.usage import spent
from orchestrator.spec import InterventionSpec
from orchestrator.stages.edit.chooser import latest_judge
from orchestrator.stages.edit.summary import Share
from orchestrator.store import Store, encode_page
from orchestrator.store.layout import REPORT

_LOCALIZED = (
    "model", "attribute", "outcome", "window_start", "window_size", "effect", "ci_low", "ci_high", "sufficiency",
    "damage", "about", "holds_in", "prompt_share_low", "n_prompts", "n_seeds", "localizer",
)  # fmt: skip
_SHARES = (*SHARES, "ceiling")
_TEMPLATES = "templates"
_SCRIPTS = ("report.js", "edits.js", "downloads.js")


def write_report(store: Store, running: str = "") -> str:
    """Writes ``report.html`` into a results root, over the one that is there.

    Args:
        store: the results.
        running: progress of a sweep that still runs; empty where it is over.

    Returns:
        where it is.

    Raises:
        StoreError: the root holds no sweep, is damaged, or cannot be written.
    """
    store.blobs.replace(REPORT, encode_page(render(store, read_findings(store), running)))
    return f"{store.root}/{REPORT}"


def render(store: Store, findings: Findings, running: str) -> str:
    """Returns the page."""
    album, grids, found = Album(store, findings), effect_grids(findings), cards(findings)
    strips = {item.block: album.interventions(item) for item in findings.items}
    before_after = {item.block: rows for item in findings.items if (rows := album.edits(item))}
    attacks = attack_lines(store, findings, latest_judge(store))
    environment = Environment(
        loader=PackageLoader("orchestrator.reporting"), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    environment.filters["span"] = lambda window: sites(*window)
    environment.filters["sites"] = lambda row: sites(row["window_start"], row["window_size"])
    environment.filters["badge"] = badge
    environment.filters["method_text"] = lambda localizer: in_words(localizer, "METHODS")
    return environment.get_template("report.html.jinja").render(
        findings=findings,
        cards=found,
        models=list(findings.sites),
        counted=counted(found),
        scale=colours(findings.spec.localize.threshold),
        beside=beside(findings, store),
        attacks=attacks,
        attack_words=attack_words(attacks),
        running=running,
        bill=bill(spent(store).usage),
        default_intervention=_default(findings),
        strips={block: row for block, row in strips.items() if row},
        before_after=before_after,
        album_full=album.full,
        share_names=tuple(SHARES.values()),
        shapes=shapes(findings),
        pdfs=pdfs(findings, grids),
        data=Markup(_as_json(_data(findings, grids))),
        style=Markup(_asset("report.css")),
        script=Markup("\n".join(_asset(name) for name in _SCRIPTS)),
    )


def _default(findings: Findings) -> InterventionSpec:
    """Returns what an intervention is where the sweep says nothing of it, which needs no words."""
    if any(model.donor for model in findings.spec.models):
        return InterventionSpec(source="weights", guidance_half="both")
    return InterventionSpec()


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
        "shapes": [asdict(shape) for shape in shapes(findings)],
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
        "shape": shape_of(edit),
        "lambda_published": known.strength if (known := info_of_results(summary.editor).published) else None,
        **{name: _share(getattr(summary, name)) for name in _SHARES},
    }


def _share(share: Share) -> list[float]:
    """Value, both ends of the interval, and the count that it is a share of."""
    return [round(share.value, 4), round(share.low, 4), round(share.high, 4), share.of]
