"""Score tables of models whose truth is known because it was trained into them."""

from __future__ import annotations

import hashlib
import json
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from loco_core import plugins
from loco_core.errors import LocalizationError, did_you_mean
from loco_core.localization.base import Localization, LocalizeSettings, Rule
from loco_core.localization.bench.replay import ReplayedTable
from loco_core.tables import rows_where

TRUTH_FILE = "truth.json"
CARD_FILE = "card.json"
"""Name and version of a set of tables, and the checksum of its files, for those who cite it."""
TRACES = "traces"
"""Folder beside the tables with those that localizers read which look at traces, under the same names."""
REPORTS = "reports"
"""Folder beside the tables with what else is known of planted models, one JSON a model."""
UNKNOWN_DONOR = "unknown_donor"
"""Folder beside the tables with windows swept once more, with donors that say what no model knows; no localizer is held
against them."""
NOT_LOCALIZED = "not localized"
"""An outcome that only a truth may have: any but ``localized`` is right, as no run of sites holds the attribute."""


@dataclass(frozen=True)
class PlantedTruth:
    """What was planted, and how.

    Attributes:
        sites: the sites that hold an attribute kind; of weights that were trained, those that surgery found needed.
        outcome: what a localizer should say of it; `NOT_LOCALIZED` for all but ``localized``.
        planted: ``captions`` where sites read captions of their own in training, ``parameters`` where weights of
            declared places alone were trained: of these sites, perhaps of others too, or of the text encoder.
        changed: sites with trained weights, needed or not; None where all weights were trained.
        others: further sets that are as right as `sites`.
    """

    sites: tuple[int, ...]
    outcome: str
    planted: str = "captions"
    changed: tuple[int, ...] | None = None
    others: tuple[tuple[int, ...], ...] = ()

    def nearest(self, sites: Sequence[int]) -> tuple[int, ...]:
        """Returns the right set that shares most sites with a set that was named; of several the nearest in size."""
        named = set(sites)
        return max((self.sites, *self.others), key=lambda right: (len(named & set(right)), -len(named ^ set(right))))


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
        reason: the localizer's own sentence, and what it asked for in vain.
        images: number of images that a sweep draws for it: every round draws clean and donor images again, and identity
            swaps decide nothing.
        all_images: number of images in the table.
        seconds: how long these took to draw, in the table's own seconds, as far as it tells.
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
    seconds: float | None = None


@dataclass(frozen=True)
class Card:
    """What a set of planted tables is cited by.

    Attributes:
        name: its name.
        version: its version; another one where any file changes.
        sha256: of its files, see `checksum`.
    """

    name: str
    version: int
    sha256: str

    def __str__(self) -> str:
        return f"{self.name} {self.version} (SHA-256 {self.sha256[:12]})"


def checksum(folder: Path) -> str:
    """Returns the SHA-256 of names and contents of a set's tables, its truth and its reports, sorted by name."""
    found = hashlib.sha256()
    for path in sorted([*folder.rglob("*.parquet"), *folder.glob(TRUTH_FILE), *folder.glob(f"{REPORTS}/*.json")]):
        found.update(f"{path.relative_to(folder).as_posix()}\n".encode())
        found.update(hashlib.sha256(path.read_bytes()).digest())
    return found.hexdigest()


def read_card(folder: Path) -> Card | None:
    """Returns what a set of planted tables is cited by; None of a folder without a card.

    Raises:
        LocalizationError: the card is broken, or the files are not those that it speaks of.
    """
    path = folder / CARD_FILE
    if not path.exists():
        return None
    try:
        said = json.loads(path.read_text(encoding="utf-8"))
        card = Card(str(said["name"]), int(said["version"]), str(said["sha256"]))
    except (OSError, ValueError, KeyError, TypeError) as error:
        message = f'{path}: expected {{"name": "..", "version": 1, "sha256": ".."}}'
        raise LocalizationError(message) from error
    if (now := checksum(folder)) != card.sha256:
        raise LocalizationError(
            f"{path}: the files beside it have the checksum {now[:12]}; expected {card.sha256[:12]}"
        )
    return card


def read_cards(folders: Iterable[Path]) -> tuple[Card, ...]:
    """Returns what sets of planted tables are cited by, of those that say it.

    Raises:
        LocalizationError: see `read_card`.
    """
    return tuple(card for folder in folders if (card := read_card(folder)) is not None)


def write_card(folder: Path, name: str, version: int) -> None:
    """Names a set of planted tables as it lies there, for those who cite it."""
    card = {"name": name, "version": version, "sha256": checksum(folder)}
    (folder / CARD_FILE).write_text(json.dumps(card, indent=1) + "\n", encoding="utf-8")


def planted_folders() -> tuple[Path, ...]:
    """Returns the folders with tables that plug-ins of the group ``tables`` name, ``PLANTED_TABLES``."""
    modules = (module for module in plugins.modules("tables") if hasattr(module, "PLANTED_TABLES"))
    return tuple(folder for module in modules if count_tables(folder := Path(module.PLANTED_TABLES)))


def run_planted(
    folder: Path, rule: Rule, settings: LocalizeSettings, tracer: str | None = None
) -> tuple[PlantedResult, ...]:
    """Holds a localizer against all ``*.parquet`` of a folder, each of one (model, attribute, set of seeds).

    Args:
        folder: has a ``truth.json`` beside the tables, ``{model: {kind: {"sites": [..], "outcome": ".."}}}``; an
            attribute may stand in place of a kind and then goes before it; ``"planted": "parameters"`` beside them
            tells plants of that kind, ``"changed"`` the sites with trained weights, ``"or"`` further sets of sites that
            are as right. Complements that a localizer might ask for should be among the rows. What tracers measured
            lies in a folder ``traces``, under the same names.
        rule: the localizer.
        settings: given to it.
        tracer: whose traces it reads; None if it reads scores. Tables without traces of it are left out.

    Raises:
        LocalizationError: the folder has no tables, or the truth file is missing, broken or silent on a table.
    """
    truths = _read_truths(folder / TRUTH_FILE)
    paths = _tables(folder)
    if not paths:
        raise LocalizationError(f"{folder}: no .parquet tables to hold the localizer against")
    if tracer is None:
        return tuple(_of_scores(path, truths, rule, settings) for path in paths)
    traced = [path for path in paths if (folder / TRACES / path.name).exists()]
    found = (_of_traces(folder / TRACES / path.name, path, truths, rule, settings, tracer) for path in traced)
    return tuple(result for result in found if result is not None)


def run_all_planted(
    folders: Iterable[Path], rule: Rule, settings: LocalizeSettings, tracer: str | None = None
) -> tuple[PlantedResult, ...]:
    """Holds a localizer against the tables of several folders, see `run_planted`."""
    return tuple(result for folder in folders for result in run_planted(folder, rule, settings, tracer))


def endings(left_out: str, cards: Sequence[Card]) -> list[str]:
    """Returns the sentences behind tables on planted models: what is left out of them, and what they are cited by."""
    cited = f"tables of {', '.join(map(str, cards))}" if cards else ""
    return [sentence for sentence in (left_out, cited) if sentence]


def count_tables(folder: Path) -> int:
    """Returns how many planted tables a folder has."""
    return len(_tables(folder))


def _tables(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.parquet"))


def _of_scores(path: Path, truths: dict[str, Any], rule: Rule, settings: LocalizeSettings) -> PlantedResult:
    scores = _read(path)
    answer = ReplayedTable(scores).answer(rule, settings)
    drawn = answer.drawn - rows_where(answer.scores, control="identity").num_rows
    each = _seconds(answer.scores)
    seconds = None if each is None else each / answer.images * drawn
    lacks = f"; the table lacks {len(answer.unmet)} windows or complements that it asked for" if answer.unmet else ""
    found = replace(answer.found, reason=f"{answer.found.reason}{lacks}")
    return _result(path, truths, found, drawn, scores.num_rows, seconds)


def _of_traces(
    path: Path, scores: Path, truths: dict[str, Any], rule: Rule, settings: LocalizeSettings, tracer: str
) -> PlantedResult | None:
    traces = rows_where(_read(path), method=tracer)
    if not traces.num_rows:
        return None
    found = rule(traces, settings, (), None)
    # Those of a unit are divided among its rows, however many pictures these are about.
    return _result(scores, truths, found, pictures(traces), _read(scores).num_rows, _seconds(traces))


def _seconds(rows: pa.Table) -> float | None:
    """Returns the seconds of rows together; None where the table does not tell."""
    if "seconds" not in rows.column_names:
        return None
    return float(np.nansum(rows["seconds"].to_numpy()))


def pictures(rows: pa.Table) -> int:
    """Returns how many pictures rows of scores or of one tracer are about.

    Contributions of all sites come from one picture; of all else each row is a picture.
    """
    if set(rows["control"].cast(pa.string()).to_pylist()) != {"contribution"}:
        return int(rows.num_rows)
    return len(set(zip(*(rows[name].to_pylist() for name in ("prompt_id", "seed")), strict=True)))


def _read(path: Path) -> pa.Table:
    try:
        return pq.read_table(path)
    except (OSError, pa.ArrowInvalid) as error:
        raise LocalizationError(f"{path}: not a readable Parquet file ({error})") from error


def _result(
    path: Path, truths: dict[str, Any], found: Localization, images: int, all_images: int, seconds: float | None
) -> PlantedResult:
    truth = _truth(truths, found, path.parent / TRUTH_FILE)
    sites = found.window.sites if found.window else ()
    if truth.outcome == NOT_LOCALIZED:
        right = found.outcome != "localized"
    else:
        right = found.outcome == truth.outcome and (truth.outcome != "localized" or sites == truth.nearest(sites))
    return PlantedResult(
        path.name, found.model, found.attribute, truth, found.outcome, sites, right, found.reason, images, all_images,
        seconds,
    )  # fmt: skip


@dataclass(frozen=True)
class PlantedRates:
    """What a localizer got right on plants of one way of planting.

    Attributes:
        planted: the way, see `PlantedTruth`.
        precise: of sites that it named where sites hold the attribute, how many are true, and how many it named.
        recalled: how many of the true sites it named, and how many true sites there are.
        changed: of all sites that it named, how many have trained weights, needed or not, and how many it named; of
            tables whose truth says which have.
        exact: in how many tables it named exactly the true sites, and of how many.
        false: in how many tables it named sites where no run of sites holds the attribute, and of how many.
        images: that a table took, median.
        seconds: that these took to draw, median, of tables that tell; None where none does.
    """

    planted: str
    precise: tuple[int, int]
    recalled: tuple[int, int]
    changed: tuple[int, int]
    exact: tuple[int, int]
    false: tuple[int, int]
    images: float
    seconds: float | None


def rates(results: Sequence[PlantedResult]) -> tuple[PlantedRates, ...]:
    """Counts what is right, a way of planting at a time."""
    found = []
    for planted in dict.fromkeys(result.truth.planted for result in results):
        mine = [result for result in results if result.truth.planted == planted]
        placed = [result for result in mine if result.truth.outcome == "localized"]
        others = [result for result in mine if result.truth.outcome != "localized"]
        right = [(result.sites, result.truth.nearest(result.sites)) for result in placed]
        hits = sum(len(set(sites) & set(true)) for sites, true in right)
        named = [(set(result.sites), result.truth.changed) for result in mine]
        changed = [(len(sites & set(of)), len(sites)) for sites, of in named if of is not None]
        known = [result.seconds for result in mine if result.seconds is not None]
        found.append(
            PlantedRates(
                planted,
                (hits, sum(len(result.sites) for result in placed)),
                (hits, sum(len(true) for _, true in right)),
                (sum(right for right, _ in changed), sum(count for _, count in changed)),
                (sum(sites == true for sites, true in right), len(placed)),
                (sum(bool(result.sites) for result in others), len(others)),
                statistics.median(result.images for result in mine),
                statistics.median(known) if known else None,
            )
        )
    return tuple(found)


def _truth(truths: dict[str, Any], found: Localization, path: Path) -> PlantedTruth:
    if found.model not in truths:
        raise LocalizationError(f'{path}: no truth for model "{found.model}"{did_you_mean(found.model, truths)}')
    kinds: dict[str, Any] = truths[found.model]
    entry = kinds.get(found.attribute, kinds.get(found.attribute_kind))
    if entry is None:
        near = did_you_mean(found.attribute_kind, kinds)
        raise LocalizationError(f'{path}: {found.model} has no truth for "{found.attribute_kind}"{near}')
    try:
        return truth_from(entry)
    except (KeyError, TypeError, ValueError) as error:
        message = f'{path}: {found.model}, {found.attribute_kind}: expected {{"sites": [..], "outcome": ".."}}'
        raise LocalizationError(message) from error


def truth_from(entry: Mapping[str, Any]) -> PlantedTruth:
    """Reads one entry of a ``truth.json``.

    Raises:
        KeyError, TypeError, ValueError: it is none.
    """
    changed = entry.get("changed")
    return PlantedTruth(
        _sites(entry["sites"]), str(entry["outcome"]), str(entry.get("planted", PlantedTruth.planted)),
        None if changed is None else _sites(changed), tuple(_sites(some) for some in entry.get("or", ())),
    )  # fmt: skip


def _sites(said: Iterable[Any]) -> tuple[int, ...]:
    return tuple(sorted(int(site) for site in said))


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
