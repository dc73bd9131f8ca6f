"""Reads a table of scores of one (model, attribute) into arrays over prompts, seeds and windows."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from loco_core.errors import LocalizationError, did_you_mean
from loco_core.localization.swap_words import DONOR_PROMPT, SwapWords, swap_words
from loco_core.statistics import Bools, Floats
from loco_core.tables import rows_where
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
OWN_CLEAN = "margin_clean"
NUMBERS = ("window_start", "window_size", "clip_score", "clip_score_donor", "clip_score_content", UNRELATED, OWN_CLEAN)


@dataclass(frozen=True)
class Images:
    """Scores of the images of some columns (windows, or one control), each array ``(P, S, W)``.

    Attributes:
        score: cosine of image and ``score_text``.
        margin: ``score`` minus cosine of image and ``donor_text``, or the largest with it and the siblings' texts.
        content: cosine of image and ``content_text``; NaN where it was not scored.
        own_clean: margin of the clean image that was made beside the image, on the same device in a batch of the same
            shape; NaN where the scores do not tell.
        present: a row exists.
        valid: a row exists and the image is one.
    """

    score: Floats
    margin: Floats
    content: Floats
    own_clean: Floats
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
        n_sites: number of sites of the model.
        prompts: ids in sorted order; the first axis of all arrays.
        seeds: sorted seeds; the second axis.
        windows: windows in order of (size, start); the third axis of ``swept``.
        complements: windows whose complement was swapped; the third axis of ``complement``.
        clean: images without intervention, ``W = 1``; likewise ``donor`` (of the full effect), ``all_sites``.
        swept: images with a window swapped.
        complement: images with everything but a window swapped.
        unrelated: ``(P, S)`` cosine of the clean image with other records' content texts; NaN where not known.
        cells: rows that were read.
        site_names: the sites in execution order; empty where they are not known.
        words: what swapped sites read, in words.
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
    site_names: tuple[str, ...] = ()
    words: SwapWords = DONOR_PROMPT

    def part(
        self, prompts: Sequence[str], seeds: Sequence[int], windows: Sequence[Window], complements: Sequence[Window]
    ) -> ScoreTable:
        """Returns the table of these prompts, seeds and windows alone, in this order; what is not there is absent."""
        rows, columns = _places(prompts, self.prompts), _places(seeds, self.seeds)
        one = np.zeros(1, dtype=np.intp)

        def images(of: Images, layers: NDArray[np.intp]) -> Images:
            taken = {field.name: _taken(getattr(of, field.name), rows, columns, layers) for field in fields(Images)}
            return Images(**taken)

        table = replace(
            self,
            prompts=tuple(prompts),
            seeds=tuple(seeds),
            windows=tuple(windows),
            complements=tuple(complements),
            clean=images(self.clean, one),
            donor=images(self.donor, one),
            all_sites=images(self.all_sites, one),
            swept=images(self.swept, _places(windows, self.windows)),
            complement=images(self.complement, _places(complements, self.complements)),
            unrelated=_taken(self.unrelated[:, :, None], rows, columns, one)[:, :, 0],
        )
        every = (table.clean, table.donor, table.all_sites, table.swept, table.complement)
        return replace(table, cells=sum(int(of.present.sum()) for of in every))


def _places(wanted: Sequence[Hashable], there: Sequence[Hashable]) -> NDArray[np.intp]:
    """Where each of ``wanted`` is in ``there``, -1 where it is not."""
    place = {item: i for i, item in enumerate(there)}
    return np.array([place.get(item, -1) for item in wanted], dtype=np.intp)


def _taken(
    values: NDArray[Any], rows: NDArray[np.intp], columns: NDArray[np.intp], layers: NDArray[np.intp]
) -> NDArray[Any]:
    """Takes ``(P, S, W)`` values at three lists of places; -1 gives NaN, or False."""
    blank = False if values.dtype == np.bool_ else np.nan
    taken = np.full((len(rows), len(columns), len(layers)), blank, dtype=values.dtype)
    there = np.ix_(rows >= 0, columns >= 0, layers >= 0)
    taken[there] = values[np.ix_(rows[rows >= 0], columns[columns >= 0], layers[layers >= 0])]
    return taken


def read_scores(scores: pa.Table, site_names: Sequence[str] = ()) -> ScoreTable:
    """Turns score rows into arrays; the order of the rows does not matter.

    Args:
        scores: rows of one (model, attribute) with at least the columns `REQUIRED`; ``clip_score_unrelated`` and
            ``margin_clean`` are read where they exist, and ``source`` tells whether the donor is a model.
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
    where = f"{names['model']}, {names['attribute']}"
    grid = _grid(scores, where)
    for control in ("clean", "donor", "window"):
        if not len(grid.rows_of(control)):
            raise LocalizationError(f'{where}: there are no "{control}" rows; the sweep writes them')
    n_sites = _site_count(scores, site_names, where)
    windows, swept = grid.windows("window")
    complements, complement = grid.windows("complement")
    if any(window.start < 0 or window.start + window.size > n_sites for window in windows + complements):
        raise LocalizationError(f"{where}: a window reaches beyond the model's {n_sites} sites")
    return ScoreTable(
        **names,
        n_sites=n_sites,
        prompts=grid.prompts,
        seeds=grid.seeds,
        windows=windows,
        complements=complements,
        clean=grid.single("clean"),
        donor=grid.single("donor"),
        all_sites=grid.single("all_sites"),
        swept=swept,
        complement=complement,
        unrelated=grid.placed(UNRELATED, "clean"),
        cells=scores.num_rows,
        site_names=tuple(site_names),
        words=swap_words("weights" if _reads_weights(scores) else "run"),
    )


@dataclass(frozen=True)
class _Grid:
    """Puts rows into arrays over (prompt, seed, column)."""

    where: str
    prompts: tuple[str, ...]
    seeds: tuple[int, ...]
    prompt_of: NDArray[np.intp]
    seed_of: NDArray[np.intp]
    control_of: NDArray[np.str_]
    valid: Bools
    columns: dict[str, Floats]

    def rows_of(self, control: str) -> NDArray[np.intp]:
        return np.flatnonzero(self.control_of == control)

    def windows(self, control: str) -> tuple[tuple[Window, ...], Images]:
        """The windows of a control in order of (size, start), and their images."""
        rows = self.rows_of(control)
        keys = np.stack([self.columns["window_size"][rows], self.columns["window_start"][rows]], axis=1)
        if np.isnan(keys).any():
            raise LocalizationError(f'{self.where}: "{control}" rows need window_start and window_size')
        keys, column = np.unique(keys, axis=0, return_inverse=True)
        windows = tuple(Window(int(start), int(size)) for size, start in keys)
        return windows, self._images(control, column.reshape(-1), len(windows))

    def single(self, control: str) -> Images:
        """The images of a control that has no windows."""
        return self._images(control, np.zeros(len(self.rows_of(control)), dtype=np.intp), 1)

    def placed(self, name: str, control: str) -> Floats:
        """One column of a control that has no windows, ``(P, S)``; NaN where there is nothing."""
        rows = self.rows_of(control)
        values = np.full((len(self.prompts), len(self.seeds)), np.nan)
        if name in self.columns:
            values[self.prompt_of[rows], self.seed_of[rows]] = self.columns[name][rows]
        return values

    def _images(self, control: str, column: NDArray[np.intp], width: int) -> Images:
        rows = self.rows_of(control)
        shape = (len(self.prompts), len(self.seeds), width)
        place = (self.prompt_of[rows], self.seed_of[rows], column)
        count = np.zeros(shape, dtype=np.intp)
        np.add.at(count, place, 1)
        if (count > 1).any():
            raise LocalizationError(
                f"{self.where}, {control}: several rows for one prompt, seed and window; give rows of one intervention "
                "(part, steps, tokens, guidance half) and one scorer"
            )

        def spread(values: Floats) -> Floats:
            array = np.full(shape, np.nan)
            array[place] = values[rows]
            return array

        score, donor = spread(self.columns["clip_score"]), spread(self.columns["clip_score_donor"])
        valid = np.zeros(shape, dtype=np.bool_)
        valid[place] = self.valid[rows]
        valid &= np.isfinite(score - donor)
        own = spread(self.columns[OWN_CLEAN]) if OWN_CLEAN in self.columns else np.full(shape, np.nan)
        return Images(score, score - donor, spread(self.columns["clip_score_content"]), own, count > 0, valid)


def _grid(scores: pa.Table, where: str) -> _Grid:
    for name in ("prompt_id", "seed", "control", "status"):
        if scores[name].null_count:
            raise LocalizationError(f"{where}: rows without {name}")
    prompts, prompt_of = _coded(scores["prompt_id"])
    controls, control_of = _coded(scores["control"])
    seeds, seed_of = np.unique(scores["seed"].to_numpy(), return_inverse=True)
    numbers = [name for name in NUMBERS if name in scores.column_names]
    return _Grid(
        where=where,
        prompts=prompts,
        seeds=tuple(int(seed) for seed in seeds),
        prompt_of=prompt_of,
        seed_of=seed_of,
        control_of=np.array(controls)[control_of],
        valid=np.asarray(pc.equal(scores["status"].cast(pa.string()), pa.scalar("ok"))),
        columns={name: _floats(scores, name) for name in numbers},
    )


def _coded(column: pa.ChunkedArray[Any]) -> tuple[tuple[str, ...], NDArray[np.intp]]:
    encoded = column.combine_chunks().cast(pa.string()).dictionary_encode()
    words = [str(word) for word in encoded.dictionary.to_pylist()]
    order = sorted(range(len(words)), key=lambda i: words[i])
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


def _reads_weights(scores: pa.Table) -> bool:
    return "source" in scores.column_names and "weights" in pc.unique(scores["source"]).to_pylist()


def _site_count(scores: pa.Table, site_names: Sequence[str], where: str) -> int:
    if site_names:
        return len(site_names)
    rows = rows_where(scores, control="all_sites")["site_indices"]
    sites = pc.max(pc.list_flatten(rows)).as_py() if len(rows) else None
    if sites is None:
        raise LocalizationError(f'{where}: give the site names, or "all_sites" rows that tell how many there are')
    return int(sites) + 1
