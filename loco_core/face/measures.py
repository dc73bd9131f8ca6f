"""Scores of pictures, and what a table of scores says of layers."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from loco_core.errors import LocalizationError, StoreError, did_you_mean, first_line
from loco_core.localization.base import Localization, LocalizeSettings, rule
from loco_core.tables import distinct, rows_where

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    import pyarrow as pa
    import torch
    from numpy.typing import NDArray
    from PIL.Image import Image

    from loco_core.scoring.base import Scorer


def score(
    images: Image | Sequence[Image] | torch.Tensor,
    texts: str | Sequence[str],
    scorer: str = "toy-clip",
    *,
    revision: str | None = None,
    device: str | None = None,
) -> NDArray[np.float64]:
    """Scores how well pictures fit texts.

    Args:
        images: pictures of one size, or a tensor ``(n, 3, height, width)`` in [0, 1].
        texts: the texts.
        scorer: name of a bundled scorer (``toy-clip``, which knows the toy world alone), the folder or hub id of a CLIP
            model such as ``openai/clip-vit-large-patch14``, or a Python file with a scorer.
        revision: commit of a hub model; None takes its newest, or the cached one.
        device: e.g. ``cuda`` or ``cpu``; None takes a GPU where torch sees one.

    Returns:
        scores ``(images, texts)``; of a CLIP model cosines in [-1, 1]. Not a number where a picture is not finite.

    Raises:
        ModelError: the scorer cannot be loaded.
        SpecError: there is no such file, or it holds no scorer.

    Example:
        >>> import loco_core
        >>> pictures = loco_core.load_model("toy").draw("a red circle", seed=[0, 1], steps=8, guidance_scale=3.0)
        >>> loco_core.score(pictures, ["a red circle", "a blue star"], "toy-clip").shape
        (2, 2)
    """
    import numpy as np
    import torch

    if isinstance(images, torch.Tensor):
        tensor = images
    else:
        listed = list(images) if isinstance(images, Sequence) else [images]
        pixels = np.stack([np.asarray(picture.convert("RGB"), dtype=np.float32) for picture in listed])
        tensor = torch.from_numpy(pixels).permute(0, 3, 1, 2) / 255
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    loaded = _scorer(scorer, revision, device)
    found = loaded.score(loaded.embed_images(tensor), [texts] if isinstance(texts, str) else list(texts))
    return np.asarray(found, dtype=np.float64)


@lru_cache(maxsize=4)
def _scorer(name: str, revision: str | None, device: str) -> Scorer:
    from loco_core.scoring.base import load_scorer

    return load_scorer(name, revision, device)


def localize(
    scores: pd.DataFrame | pa.Table | str | Path,
    localizer: str = "window",
    *,
    model: str | None = None,
    attribute: str | None = None,
    site_names: Sequence[str] = (),
    **settings: Any,
) -> Localization:
    """Finds the window of sites that controls an attribute, from scores that are there.

    Args:
        scores: rows with the columns of ``RESULTS/scores``, one row per picture: a DataFrame, an Arrow table, or a
            Parquet file or a folder of them. A localizer that reads traces takes those of ``RESULTS/traces``.
        localizer: name of a localizer, or a Python file with one.
        model: id of the model whose rows count; needed where the rows are of several.
        attribute: key of the attribute whose rows count; needed where the rows are of several.
        site_names: names of the model's sites in execution order; without them the result carries none.
        settings: further settings, see :class:`loco_core.localization.base.LocalizeSettings`, e.g. ``threshold=0.7``
            (share of the full effect, 0 to 1) or ``confidence=0.9``.

    Returns:
        outcome, window, effect with its interval, and ``effects``: one entry per swept window.

    Raises:
        SpecError: there is no such localizer.
        LocalizationError: columns or controls are missing, or rows are of several models or attributes.
        StoreError: the file is not there, or is no Parquet.

    Example:
        >>> import loco_core
        >>> from loco_core.toyworld import PLANTED_TABLES
        >>> found = loco_core.localize(PLANTED_TABLES / "toy-planted-a-style-lumio-0.parquet")
        >>> found.outcome, found.window
        ('localized', Window(start=12, size=2))
    """
    table = _table(scores)
    for name, value in (("model", model), ("attribute", attribute)):
        if name not in table.column_names:
            raise LocalizationError(f"the scores have no column {name}; expected those of a results folder's scores")
        if value is not None:
            known = distinct(table, name)
            if value not in known:
                raise LocalizationError(f'there are no scores of the {name} "{value}"{did_you_mean(value, known)}')
            table = rows_where(table, **{name: value})
    chosen = LocalizeSettings(localizer=localizer, **settings)
    return rule(localizer)(table, chosen, tuple(site_names), None)


def _table(scores: pd.DataFrame | pa.Table | str | Path) -> pa.Table:
    import pyarrow as pa
    import pyarrow.parquet as pq

    if isinstance(scores, pa.Table):
        return scores
    if not isinstance(scores, str | Path):
        return pa.Table.from_pandas(scores, preserve_index=False)
    try:
        return pq.read_table(scores)
    except FileNotFoundError:
        raise StoreError(f"no file or folder {scores}; expected Parquet with the columns of scores") from None
    except (pa.ArrowInvalid, OSError) as error:
        raise StoreError(f"{scores} is not Parquet that can be read: {first_line(error)}") from error
