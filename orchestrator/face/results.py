"""Results from Python: tables, pictures and plots of a results folder."""

from __future__ import annotations

import io
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow.compute as pc

from loco_core.errors import StoreError, did_you_mean
from loco_core.tables import where
from orchestrator.spec.places import anchored
from orchestrator.store import DamagedFileError, open_store
from orchestrator.store.schemas import TABLES

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa
    from matplotlib.axes import Axes

    from loco_core.editing.deltas import WeightDelta
    from orchestrator.runs.status import SweepStatus
    from orchestrator.runs.sweep import RunResult


class Results:
    """The results of a sweep, in a folder or a bucket; those of a running sweep, too, as far as they are published.

    The examples below are of ``style/lumio`` in the bundled model ``toy``, with windows of one and two sites,
    two prompts, two seeds and no edits.

    Attributes:
        root: the folder, absolute, or the ``s3://`` address.
        ended: how the run ended that gave them; None where they were opened.
    """

    def __init__(self, root: str | Path, ended: RunResult | None = None) -> None:
        """Opens results; writes nothing.

        Args:
            root: results folder, or ``s3://`` address.
            ended: how the run ended that gave them; None where there was none.

        Raises:
            StoreError: there are no results, or they cannot be read.

        Example:
            >>> import orchestrator
            >>> orchestrator.Results("nowhere")
            Traceback (most recent call last):
            ...
            orchestrator.store.errors.MissingFileError: ...
        """
        self.root, self.ended = anchored(str(root)), ended
        self._store = open_store(self.root, create=False)

    def __repr__(self) -> str:
        return f"Results({self.root!r})"

    def _repr_html_(self) -> str:
        """Returns what a notebook shows: how far the sweep is, one row per model and attribute."""
        found = self.status()
        names = ("model", "attribute", "units_done", "units", "ok", "invalid", "failed", "outcome", "window_start",
                 "window_size")  # fmt: skip
        rows = "".join(
            "<tr>" + "".join(f"<td>{escape(str(_shown(getattr(block, name))))}</td>" for name in names) + "</tr>"
            for block in found.blocks
        )
        head = "".join(f"<th>{escape(name.replace('_', ' '))}</th>" for name in names)
        title = f"{found.name}: {found.units_done} of {found.units} units"
        return f"<p><b>{escape(title)}</b> <code>{escape(self.root)}</code></p><table><tr>{head}</tr>{rows}</table>"

    def status(self) -> SweepStatus:
        """Returns how far the sweep is: units, cells, failures and outcomes, per model and attribute.

        Raises:
            StoreError: the folder holds no sweep, or cannot be read.

        Example:
            >>> found = results.status()
            >>> found.units_done == found.units
            True
        """
        from orchestrator.runs.status import survey

        return survey(self._store)

    def table(self, name: str, columns: Sequence[str] | None = None, **values: str | float) -> pd.DataFrame:
        """Returns a table of the results.

        Args:
            name: name of the table, such as ``scores``, or that of an installed kind of work.
            columns: columns that are read, in their order; None reads all.
            values: values that columns must have, e.g. ``model="toy"``.

        Returns:
            one row per cell, window, edit, ... as the table has it; whole numbers are of pandas' nullable types.

        Raises:
            StoreError: there is no such table or column, or a file is missing or damaged.

        Example:
            >>> results.table("localizations", ["model", "n_seeds"]).values.tolist()
            [['toy', 2]]
        """
        import pandas as pd
        import pyarrow as pa

        # Whole numbers stay whole where some are missing.
        whole: dict[pa.DataType, Any] = {
            pa.int16(): pd.Int16Dtype(), pa.int32(): pd.Int32Dtype(), pa.int64(): pd.Int64Dtype()
        }  # fmt: skip
        rows = self._rows(name, columns, values)
        return rows.to_pandas(ignore_metadata=True, types_mapper=lambda kind: whole.get(kind))

    def scores(self, columns: Sequence[str] | None = None, **values: str | float) -> pd.DataFrame:
        """Returns the scores.

        Args:
            columns: columns that are read, in their order; None reads all.
            values: values that columns must have, e.g. ``control="window"``.

        Returns:
            one row per picture: which window was swapped (``control``, ``window_start``, ``window_size``), and
            cosines of the picture with the texts (``clip_score``, ``clip_score_donor``, ``clip_score_content``).

        Raises:
            StoreError: there is no such column, or a file is missing or damaged.

        Example:
            >>> results.scores(["control", "seed", "clip_score"], control="clean").shape
            (4, 3)
        """
        return self.table("scores", columns, **values)

    def effects(self, columns: Sequence[str] | None = None, **values: str | float) -> pd.DataFrame:
        """Returns the effects of windows.

        Args:
            columns: columns that are read, in their order; None reads all.
            values: values that columns must have, e.g. ``attribute="style/lumio"``.

        Returns:
            one row per swept window, model, attribute and localizer: ``effect`` as a share of the full effect (0 none,
            1 as much as the donor prompt), with its interval.

        Raises:
            StoreError: there is no such column, or a file is missing or damaged.

        Example:
            >>> results.effects(["window_start", "window_size", "effect"]).columns.tolist()
            ['window_start', 'window_size', 'effect']
        """
        return self.table("effects", columns, **values)

    def localizations(self, columns: Sequence[str] | None = None, **values: str | float) -> pd.DataFrame:
        """Returns what was localized.

        Args:
            columns: columns that are read, in their order; None reads all.
            values: values that columns must have.

        Returns:
            one row per model, attribute and localizer: outcome, window and effect, with the reason in a sentence.

        Raises:
            StoreError: there is no such column, or a file is missing or damaged.

        Example:
            >>> results.localizations(["model", "attribute"]).values.tolist()
            [['toy', 'style/lumio']]
        """
        return self.table("localizations", columns, **values)

    def edits(self, columns: Sequence[str] | None = None, **values: str | float) -> pd.DataFrame:
        """Returns the edits that were fitted.

        Args:
            columns: columns that are read, in their order; None reads all.
            values: values that columns must have, e.g. ``chosen=True``.

        Returns:
            one row per edit: editor, settings, sites, and ``edit_id``, by which `load_edit` finds its weights.

        Raises:
            StoreError: there is no such column, or a file is missing or damaged.

        Example:
            >>> len(results.edits())
            0
        """
        return self.table("edits", columns, **values)

    def evaluations(self, columns: Sequence[str] | None = None, **values: str | float) -> pd.DataFrame:
        """Returns what edits were measured on.

        Args:
            columns: columns that are read, in their order; None reads all.
            values: values that columns must have, e.g. ``split="report"``.

        Returns:
            one row per picture that was drawn with or without an edit.

        Raises:
            StoreError: there is no such column, or a file is missing or damaged.

        Example:
            >>> len(results.evaluations())
            0
        """
        return self.table("evaluations", columns, **values)

    def attacks(self, columns: Sequence[str] | None = None, **values: str | float) -> pd.DataFrame:
        """Returns what attacks on edits brought back.

        Args:
            columns: columns that are read, in their order; None reads all.
            values: values that columns must have, e.g. ``who="edited"``.

        Returns:
            one row per picture drawn with an attacked model, edited or not.

        Raises:
            StoreError: there is no such column, or a file is missing or damaged.

        Example:
            >>> len(results.attacks())
            0
        """
        return self.table("attacks", columns, **values)

    def failures(self, columns: Sequence[str] | None = None, **values: str | float) -> pd.DataFrame:
        """Returns why cells have no score.

        Args:
            columns: columns that are read, in their order; None reads all.
            values: values that columns must have.

        Returns:
            one row per cell, or per unit without cells, that was given up, and why.

        Raises:
            StoreError: there is no such column, or a file is missing or damaged.

        Example:
            >>> len(results.failures())
            0
        """
        return self.table("failures", columns, **values)

    def pictures(self, limit: int = 24, **values: str | float) -> pd.DataFrame:
        """Returns pictures that the sweep kept.

        Args:
            limit: how many at most; a picture of 512 pixels a side takes about a megabyte.
            values: values that columns must have, e.g. ``control="window", window_start=8, window_size=2, seed=0``.

        Returns:
            one row per picture: ``model``, ``attribute``, ``prompt``, ``control``, ``window_start``, ``window_size``,
            ``seed``, and ``image``, an RGB picture of PIL.

        Raises:
            StoreError: there is no such column, or a file is missing or damaged.

        Example:
            >>> pictures = results.pictures(control="clean", seed=0)
            >>> pictures.image[0].size
            (32, 32)
        """
        import pandas as pd
        from PIL import Image

        labels = ("model", "attribute", "prompt", "control", "window_start", "window_size", "seed")
        rows = self._rows("images", None, values).slice(0, limit)
        found = rows.select(labels).to_pandas()
        coded = pc.struct_field(rows["image"], "bytes").to_pylist()
        pictures = [Image.open(io.BytesIO(each)).convert("RGB") for each in coded]
        return found.assign(image=pd.Series(pictures, found.index, dtype=object))

    def plot_effects(self, model: str | None = None, attribute: str | None = None, ax: Axes | None = None) -> Axes:
        """Draws the effects of all windows of an attribute as a heatmap; a ring marks the window that was localized.

        Args:
            model: id of the model; None where there is one.
            attribute: key of the attribute; None where there is one.
            ax: where it is drawn; None makes a figure.

        Returns:
            the axes: the first site of a window across, its size down, the effect (share of the full effect, 0 to 1)
            in colour.

        Raises:
            StoreError: there are no effects of it, or it is not clear which are meant.

        Example:
            >>> axes = results.plot_effects("toy", "style/lumio")
            >>> axes.get_xlabel(), axes.get_ylabel()
            ('first site', 'window size')
        """
        import numpy as np
        from matplotlib.figure import Figure

        from orchestrator.stages.localize import main_rows

        values = {name: self._one(name, value) for name, value in (("model", model), ("attribute", attribute))}
        rows = main_rows(self._rows("effects", None, values)).to_pylist()
        sizes = sorted({row["window_size"] for row in rows})
        grid = np.full((len(sizes), 1 + max(row["window_start"] for row in rows)), np.nan)
        for row in rows:
            if row["effect"] is not None:
                grid[sizes.index(row["window_size"]), row["window_start"]] = row["effect"]
        if ax is None:
            ax = Figure(figsize=(1.8 + 0.28 * grid.shape[1], 1.4 + 0.34 * len(sizes)), layout="constrained").subplots()
        image = ax.imshow(grid, cmap="Oranges", vmin=0, vmax=1, aspect="auto")
        ax.set_yticks(range(len(sizes)), [str(size) for size in sizes])
        ax.set(xlabel="first site", ylabel="window size", title=f"{values['model']}: {values['attribute']}")
        for found in main_rows(self._rows("localizations", None, values)).to_pylist():
            if found["window_start"] is not None and found["window_size"] in sizes:
                at = (found["window_start"], sizes.index(found["window_size"]))
                ax.plot(*at, "o", markersize=11, markerfacecolor="none", markeredgecolor="black")
        if ax.figure is not None:
            ax.figure.colorbar(image, ax=ax, label="effect")
        return ax

    def report(self) -> str:
        """Writes ``report.html`` into the results, over the one that is there; returns where it is.

        Raises:
            StoreError: the folder holds no sweep, is damaged, or cannot be written.

        Example:
            >>> results.report().endswith("report.html")
            True
        """
        from orchestrator.reporting import write_report

        return write_report(self._store)

    def load_edit(self, edit_id: str) -> WeightDelta:
        """Reads the weights of an edit; ``loco_core.apply_edit`` and ``Model.edited`` apply it.

        Args:
            edit_id: id of the edit in `edits`, or its beginning.

        Raises:
            EditError: there is no such edit, or more than one, or its file is damaged.
            StoreError: its file is gone.

        Example:
            >>> results.load_edit("0123")
            Traceback (most recent call last):
            ...
            loco_core.errors.EditError: ... holds no edits; `loco-sweep edit RESULTS` fits some
        """
        from loco_core.editing.deltas import from_bytes
        from loco_core.errors import EditError
        from orchestrator.runs.export import find_edit

        edit = find_edit(self._store, edit_id, {})
        try:
            data = self._store.delta(edit.delta_path, edit.delta_sha256)
        except DamagedFileError as error:
            raise EditError(str(error)) from error
        return from_bytes(data, f"{self.root}/{edit.delta_path}")

    def _rows(self, name: str, columns: Sequence[str] | None, values: dict[str, Any]) -> pa.Table:
        if name not in TABLES:
            raise StoreError(f'there is no table "{name}"{did_you_mean(name, TABLES)}')
        known = TABLES[name].names
        for column in (*(columns or ()), *values):
            if column not in known:
                raise StoreError(f'{name} has no column "{column}"{did_you_mean(column, known)}')
        wanted = list(columns or known)
        read = self._store.read_columns(name, list(dict.fromkeys([*wanted, *values])))
        return (read.filter(where(**values)) if values else read).select(wanted)

    def _one(self, column: str, value: str | None) -> str:
        known = sorted({str(item) for item in self._rows("effects", [column], {})[column].to_pylist()})
        if value is None and len(known) == 1:
            return known[0]
        if value not in known:
            named = f'the {column} "{value}"' if value is not None else f"{column}: name one"
            raise StoreError(f"{self.root} has no effects of {named}{did_you_mean(value or '', known)}")
        return value


def _shown(value: Any) -> Any:
    return "-" if value is None else value
