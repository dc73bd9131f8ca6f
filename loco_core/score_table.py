"""Reads a table of scores of one (model, attribute) into arrays over prompts, seeds and windows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from loco_core.errors import LocalizationError, did_you_mean
from loco_core.statistics import Bools, Floats
from loco_core.types import Window

REQUIRED = (
    "model",
    "attribute",
    "attribute_kind",
    "mode",
    "prompt_id",
    "seed",
    "control",
    "window_start",
    "window_size",
    "site_indices",
    "clip_score",
    "clip_score_donor",
    "clip_score_content",
    "status",
)
UNRELATED = "clip_score_unrelated"


@dataclass(frozen=True)
class Images:
    """Scores of the images of some columns (windows, or one control), each array ``(P, S, W)``.

    Attributes:
        score: cosine of image and ``score_text``.
        margin: ``score`` minus cosine of image and ``donor_text``.
        content: cosine of image and ``content_text``; NaN where it was not scored.
        present: a row exists.
        valid: a row exists and the image is one.
    """

    score: Floats
    margin: Floats
    content: Floats
    present: Bools
    valid: Bools


@dataclass(frozen=True)
class ScoreTable:
    """The scores of one (model, attribute).

    Attributes:
        model: id.
        attribute: name.
        attribute_kind: kind.
        mode: ``remove`` or ``replace``.
        n_sites: how many sites the model has.
        prompts: ids in sorted order; the first axis of all arrays.
        seeds: in sorted order; the second axis.
        windows: in order of (size, start); the third axis of ``swept``.
        complements: windows whose complement was swapped; the third axis of ``complement``.
        clean: images without intervention, ``W = 1``; likewise ``donor`` (the donor prompt outright), ``all_sites``.
        swept: images with a window swapped.
        complement: images with everything but a window swapped.
        unrelated: ``(P, S)`` cosine of the clean image with other records' content texts; NaN where not known.
        cells: rows that were read.
    """

    model: str
    attribute: str
    attribute_kind: str
    mode: str
    n_sites: int
    prompts: tuple[str, ...]
    seeds: tuple[int, ...]
    windows: tuple[Window, ...]
    complements: tuple[Window, ...]
    clean: Images
    donor: Images
    all_sites: Images
    swept: Images
    complement: Images
    unrelated: Floats
    cells: int


def read_scores(scores: pa.Table, site_names: Sequence[str] = ()) -> ScoreTable:
    """Turns score rows into arrays; the order of the rows does not matter.

    Args:
        scores: rows of one (model, attribute) with at least the columns `REQUIRED`; ``clip_score_unrelated`` is read
            where it exists.
        site_names: the model's sites; without them their number is taken from the ``all_sites`` control.

    Raises:
        LocalizationError: columns or controls are missing, the rows are of several attributes or a cell occurs twice.
    """
    for name in REQUIRED:
        if name not in scores.column_names:
            raise LocalizationError(f'scores have no column "{name}"{did_you_mean(name, scores.column_names)}')
    if not scores.num_rows:
        raise LocalizationError("scores have no rows: run the sweep of this model and attribute first")
    names = {name: _single(scores, name) for name in ("model", "attribute", "attribute_kind", "mode")}
    prompts, prompt_of = _coded(scores["prompt_id"])
    seeds, seed_of = np.unique(scores["seed"].to_numpy(), return_inverse=True)
    controls, control_of = _coded(scores["control"])
    n_sites = _site_count(scores, site_names, names)
    columns = {name: _floats(scores, name) for name in ("clip_score", "clip_score_donor", "clip_score_content")}
    valid = pc.equal(scores["status"], "ok").to_numpy(zero_copy_only=False)
    starts, sizes = _floats(scores, "window_start"), _floats(scores, "window_size")
    grid = _Grid((len(prompts), len(seeds)), prompt_of, seed_of, columns, valid)

    def rows_of(control: str) -> NDArray[np.intp]:
        code = controls.index(control) if control in controls else -1
        return np.flatnonzero(control_of == code)

    def windows_of(control: str) -> tuple[tuple[Window, ...], Images]:
        rows = rows_of(control)
        if np.isnan(starts[rows]).any() or np.isnan(sizes[rows]).any():
            raise LocalizationError(f'{_where(names)}: "{control}" rows need window_start and window_size')
        keys, column = np.unique(np.stack([sizes[rows], starts[rows]], axis=1), axis=0, return_inverse=True)
        windows = tuple(Window(int(start), int(size)) for size, start in keys)
        return windows, grid.images(rows, column.reshape(-1), len(windows), f"{_where(names)}, {control}")

    def single(control: str) -> Images:
        rows = rows_of(control)
        return grid.images(rows, np.zeros(len(rows), dtype=np.intp), 1, f"{_where(names)}, {control}")

    for control in ("clean", "donor", "window"):
        if control not in controls:
            raise LocalizationError(f'{_where(names)}: there are no "{control}" rows; the sweep writes them')
    windows, swept = windows_of("window")
    complements, complement = windows_of("complement")
    if any(window.start < 0 or window.start + window.size > n_sites for window in windows + complements):
        raise LocalizationError(f"{_where(names)}: a window reaches beyond the model's {n_sites} sites")
    clean_rows = rows_of("clean")
    unrelated = np.full((len(prompts), len(seeds)), np.nan)
    if UNRELATED in scores.column_names:
        unrelated[prompt_of[clean_rows], seed_of[clean_rows]] = _floats(scores, UNRELATED)[clean_rows]
    return ScoreTable(
        **names,
        n_sites=n_sites,
        prompts=prompts,
        seeds=tuple(int(seed) for seed in seeds),
        windows=windows,
        complements=complements,
        clean=single("clean"),
        donor=single("donor"),
        all_sites=single("all_sites"),
        swept=swept,
        complement=complement,
        unrelated=unrelated,
        cells=scores.num_rows,
    )


@dataclass(frozen=True)
class _Grid:
    """Puts rows into arrays over (prompt, seed, column)."""

    shape: tuple[int, int]
    prompt_of: NDArray[np.intp]
    seed_of: NDArray[np.intp]
    columns: dict[str, Floats]
    valid: Bools

    def images(self, rows: NDArray[np.intp], column: NDArray[np.intp], width: int, where: str) -> Images:
        place = (self.prompt_of[rows], self.seed_of[rows], column)
        count = np.zeros((*self.shape, width), dtype=np.intp)
        np.add.at(count, place, 1)
        if (count > 1).any():
            raise LocalizationError(
                f"{where}: several rows for one prompt, seed and window; give rows of one intervention "
                "(part, steps, tokens, guidance half) and one scorer"
            )
        valid = np.zeros(count.shape, dtype=np.bool_)
        scored = np.isfinite(self.columns["clip_score"][rows]) & np.isfinite(self.columns["clip_score_donor"][rows])
        valid[place] = self.valid[rows] & scored
        score, donor, content = (self._placed(name, rows, place, count.shape) for name in self.columns)
        return Images(score, score - donor, content, count > 0, valid)

    def _placed(self, name: str, rows: NDArray[np.intp], place: Any, shape: tuple[int, ...]) -> Floats:
        values = np.full(shape, np.nan)
        values[place] = self.columns[name][rows]
        return values


def _coded(column: pa.ChunkedArray) -> tuple[tuple[str, ...], NDArray[np.intp]]:
    encoded = column.combine_chunks().cast(pa.string()).dictionary_encode()
    if encoded.null_count:
        raise LocalizationError("scores have rows without prompt_id or control")
    words = encoded.dictionary.to_pylist()
    order = sorted(range(len(words)), key=words.__getitem__)
    rank = np.empty(len(words), dtype=np.intp)
    rank[order] = np.arange(len(words))
    return tuple(words[i] for i in order), rank[encoded.indices.to_numpy()]


def _floats(scores: pa.Table, name: str) -> Floats:
    return np.asarray(scores[name].cast(pa.float64()).to_numpy(), dtype=np.float64)


def _single(scores: pa.Table, name: str) -> str:
    values = sorted(str(value) for value in pc.unique(scores[name]).to_pylist())
    if len(values) > 1:
        raise LocalizationError(
            f"scores hold several values of {name} ({', '.join(values[:4])}); localize one at a time"
        )
    return values[0]


def _site_count(scores: pa.Table, site_names: Sequence[str], names: dict[str, str]) -> int:
    if site_names:
        return len(site_names)
    rows = scores["site_indices"].filter(pc.equal(scores["control"], "all_sites"))
    sites = pc.max(pc.list_flatten(rows)).as_py() if len(rows) else None
    if sites is None:
        raise LocalizationError(
            f'{_where(names)}: give the site names, or "all_sites" rows that tell how many there are'
        )
    return int(sites) + 1


def _where(names: dict[str, str]) -> str:
    return f"{names['model']}, {names['attribute']}"
