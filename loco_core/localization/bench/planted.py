"""Score tables of models whose truth is known because it was trained into them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from loco_core import plugins
from loco_core.errors import LocalizationError, did_you_mean
from loco_core.localization.base import Localization, LocalizeSettings, Rule
from loco_core.localization.bench.replay import ReplayedTable

TRUTH_FILE = "truth.json"
NOT_LOCALIZED = "not localized"
"""An outcome that only a truth may have: any but ``localized`` is right, as no run of sites holds the attribute."""


@dataclass(frozen=True)
class PlantedTruth:
    """What was planted, and how.

    Attributes:
        sites: the sites that hold an attribute kind.
        outcome: what a localizer should say of it; `NOT_LOCALIZED` for all but ``localized``.
        planted: ``captions`` where sites read captions of their own in training, ``parameters`` where weights of these
            sites alone were trained.
    """

    sites: tuple[int, ...]
    outcome: str
    planted: str = "captions"


@dataclass(frozen=True)
class PlantedResult:
    """One table held against its truth.

    Attributes:
        table: name of the file.
        model: id.
        attribute: name.
        truth: truth that was planted.
        outcome: outcome that the localizer reported.
        sites: sites that it picked.
        right: the outcome is right, and the sites exactly those planted where there are sites to be found.
        reason: the localizer's own sentence.
        images: number of images that it took.
        all_images: number of images in the table.
    """

    table: str
    model: str
    attribute: str
    truth: PlantedTruth
    outcome: str
    sites: tuple[int, ...]
    right: bool
    reason: str
    images: int
    all_images: int


def planted_folders() -> tuple[Path, ...]:
    """Returns the folders that plug-ins of the group ``tables`` name, ``PLANTED_TABLES``."""
    modules = (module for module in plugins.modules("tables") if hasattr(module, "PLANTED_TABLES"))
    return tuple(folder for module in modules if (folder := Path(module.PLANTED_TABLES)).is_dir())


def run_planted(folder: Path, rule: Rule, settings: LocalizeSettings) -> tuple[PlantedResult, ...]:
    """Holds a localizer against all ``*.parquet`` of a folder, each of one (model, attribute, set of seeds).

    Args:
        folder: has a ``truth.json`` beside the tables, ``{model: {kind: {"sites": [..], "outcome": ".."}}}``; an
            attribute may stand in place of a kind and then goes before it; ``"planted": "parameters"`` beside them
            tells plants of that kind. Complements that a localizer might ask for
            should be among the rows.
        rule: the localizer.
        settings: given to it.

    Raises:
        LocalizationError: the folder has no tables, or the truth file is missing, broken or silent on a table.
    """
    truths = _read_truths(folder / TRUTH_FILE)
    paths = sorted(folder.glob("*.parquet"))
    if not paths:
        raise LocalizationError(f"{folder}: no .parquet tables to hold the localizer against")
    return tuple(_result(path, truths, rule, settings) for path in paths)


def _result(path: Path, truths: dict[str, Any], rule: Rule, settings: LocalizeSettings) -> PlantedResult:
    try:
        scores = pq.read_table(path)
    except (OSError, pa.ArrowInvalid) as error:
        raise LocalizationError(f"{path}: not a readable Parquet file ({error})") from error
    answer = ReplayedTable(scores).answer(rule, settings)
    found = answer.found
    truth = _truth(truths, found, path.parent / TRUTH_FILE)
    sites = found.window.sites if found.window else ()
    if truth.outcome == NOT_LOCALIZED:
        right = found.outcome != "localized"
    else:
        right = found.outcome == truth.outcome and (truth.outcome != "localized" or sites == truth.sites)
    return PlantedResult(
        path.name, found.model, found.attribute, truth, found.outcome, sites, right, found.reason,
        answer.images, scores.num_rows,
    )  # fmt: skip


def _truth(truths: dict[str, Any], found: Localization, path: Path) -> PlantedTruth:
    if found.model not in truths:
        raise LocalizationError(f'{path}: no truth for model "{found.model}"{did_you_mean(found.model, truths)}')
    kinds: dict[str, Any] = truths[found.model]
    entry = kinds.get(found.attribute, kinds.get(found.attribute_kind))
    if entry is None:
        near = did_you_mean(found.attribute_kind, kinds)
        raise LocalizationError(f'{path}: {found.model} has no truth for "{found.attribute_kind}"{near}')
    try:
        sites = tuple(sorted(int(site) for site in entry["sites"]))
        return PlantedTruth(sites, str(entry["outcome"]), str(entry.get("planted", PlantedTruth.planted)))
    except (KeyError, TypeError, ValueError) as error:
        message = f'{path}: {found.model}, {found.attribute_kind}: expected {{"sites": [..], "outcome": ".."}}'
        raise LocalizationError(message) from error


def _read_truths(path: Path) -> dict[str, Any]:
    try:
        truths = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise LocalizationError(f"{path}: missing; it says what was planted where") from error
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise LocalizationError(f"{path}: not readable as JSON ({error})") from error
    if not isinstance(truths, dict) or not all(isinstance(kinds, dict) for kinds in truths.values()):
        raise LocalizationError(f"{path}: expected {{model: {{kind: {{..}}}}}}")
    return truths
