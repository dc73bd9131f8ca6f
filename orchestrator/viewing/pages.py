"""What a page shows, worked out of the index and the address that was asked for."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import reduce
from operator import and_
from typing import Any
from urllib.parse import urlencode

import pyarrow as pa
import pyarrow.compute as pc

from loco_core.errors import ViewError
from orchestrator.viewing.catalogue import CONTROLS, Snapshot

PAGE_SIZE = 200
_CONTROL_WORDS = {"all_sites": "all sites", "before": "before the edit"}
_REFERENCES = ("clean", "all_sites", "donor")


@dataclass(frozen=True)
class Option:
    """One choice of a select."""

    value: str
    text: str


@dataclass(frozen=True)
class Select:
    """A select with a label.

    Attributes:
        name: in the address.
        label: for people.
        chosen: value of the chosen option.
        options: choices; the first may be the empty one for all.
    """

    name: str
    label: str
    chosen: str
    options: tuple[Option, ...]


@dataclass(frozen=True)
class Picture:
    """A picture and what is written under it.

    Attributes:
        image: address of the image.
        details: address of its columns.
        beside: address of the page that shows it beside the others of its prompt and seed.
        control: kind of image.
        title: what was done.
        about: model, attribute and seed, as far as the page does not say them.
        prompt: its prompt; empty where the page says it.
        alt: text in place of the image.
    """

    image: str
    details: str
    beside: str
    control: str
    title: str
    about: str
    prompt: str
    alt: str


@dataclass(frozen=True)
class Section:
    """Pictures under one heading."""

    title: str
    pictures: tuple[Picture, ...]


@dataclass(frozen=True)
class Page:
    """All that differs from page to page.

    Attributes:
        mode: ``browse`` or ``compare``.
        selects: the form.
        heading: what is shown, in a line.
        sections: the pictures.
        kept: whether the results hold any image.
        filtered: whether a filter is set.
        previous: address of the page before, if there is one.
        next: address of the page after, if there is one.
        browse: address of the other mode.
        compare: address of the other mode.
    """

    mode: str
    selects: tuple[Select, ...]
    heading: str
    sections: tuple[Section, ...]
    kept: bool
    filtered: bool
    previous: str
    next: str
    browse: str
    compare: str


@dataclass(frozen=True)
class _Filter:
    name: str
    label: str
    column: str
    always: bool = True


_BROWSED = (
    _Filter("model", "Model", "model"),
    _Filter("attribute", "Attribute", "attribute"),
    _Filter("control", "Control", "control"),
    _Filter("size", "Window size", "window_size"),
    _Filter("start", "Window start", "window_start"),
    _Filter("seed", "Seed", "seed"),
    _Filter("intervention", "Intervention", "intervention", always=False),
    _Filter("edit", "Edit", "edit_id", always=False),
    _Filter("role", "Prompt role", "prompt_role", always=False),
)
_COMPARED = (
    _Filter("model", "Model", "model"),
    _Filter("attribute", "Attribute", "attribute"),
    _Filter("prompt", "Prompt", "prompt"),
    _Filter("seed", "Seed", "seed"),
)
_SIZE = _Filter("size", "Window size", "window_size")


def browse(snapshot: Snapshot, query: Mapping[str, str]) -> Page:
    """Returns a page of all pictures that the filters of an address leave.

    Args:
        snapshot: the results.
        query: of the address.

    Raises:
        ViewError: a filter or the page is no number where it should be.
    """
    index = snapshot.index
    chosen = {item.name: query[item.name] for item in _BROWSED if query.get(item.name)}
    masks = {item.name: _mask(index, item, chosen[item.name]) for item in _BROWSED if item.name in chosen}
    selects = []
    for item in _BROWSED:
        offered = _offered(_masked(index, [m for name, m in masks.items() if name != item.name]), item.column)
        if item.always or item.name in chosen or len(offered) > (item.name == "intervention"):
            selects.append(_select(snapshot, item, offered, chosen.get(item.name, ""), every=True))
    rows = _masked(index, masks.values())
    pages = max(1, -(-rows.num_rows // PAGE_SIZE))
    number = min(max(1, _number("page", query.get("page") or "1")), pages)
    first = (number - 1) * PAGE_SIZE
    shown = rows.slice(first, PAGE_SIZE)
    several = {name for name in ("model", "attribute", "seed", "prompt", "intervention") if name not in chosen}
    if len(pc.unique(index["intervention"]).drop_null()) < 2:
        several.discard("intervention")
    pictures = tuple(_picture(snapshot, row, several) for row in shown.to_pylist())
    heading = f"{rows.num_rows:,} picture{'' if rows.num_rows == 1 else 's'}"
    if pages > 1:
        heading = f"{first + 1:,}-{first + shown.num_rows:,} of {heading}"
    return Page(
        "browse", tuple(selects), heading, (Section("", pictures),), index.num_rows > 0, bool(chosen),
        _address("/", chosen, page=number - 1) if number > 1 else "",
        _address("/", chosen, page=number + 1) if number < pages else "",
        *_modes(chosen),
    )  # fmt: skip


def compare(snapshot: Snapshot, query: Mapping[str, str]) -> Page:
    """Returns the page of all pictures of one model, attribute, prompt and seed; what the address lacks is filled in.

    Args:
        snapshot: the results.
        query: of the address.

    Raises:
        ViewError: a filter is no number where it should be.
    """
    rows, selects = snapshot.index, []
    chosen: dict[str, str] = {}
    for item in _COMPARED:
        offered = _offered(rows, item.column)
        wanted = query.get(item.name, "")
        chosen[item.name] = wanted if wanted in map(str, offered) else str(offered[0]) if offered else ""
        selects.append(_select(snapshot, item, offered, chosen[item.name], every=False))
        if offered:
            rows = rows.filter(_mask(rows, item, chosen[item.name]))
    sizes = _offered(rows, "window_size")
    size = query.get("size", "") if query.get("size", "") in map(str, sizes) else ""
    selects.append(_select(snapshot, _SIZE, sizes, size, every=True))
    if size:
        rows = rows.filter(pc.field("window_size").is_null() | _mask(rows, _SIZE, size))
    modes = _modes(chosen)
    return Page(
        "compare", tuple(selects), chosen["prompt"], tuple(_side_by_side(snapshot, rows.to_pylist())),
        snapshot.index.num_rows > 0, False, "", "", *modes,
    )  # fmt: skip


def _side_by_side(snapshot: Snapshot, rows: list[dict[str, Any]]) -> Iterable[Section]:
    """Yields what belongs side by side: windows of one size between the clean image and the strongest ones."""
    several = len({row["intervention"] for row in rows} - {None}) > 1
    groups: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for row in rows:
        if row["control"] == "window":
            groups.setdefault((row["intervention"], row["window_size"]), []).append(row)
    for intervention, size in groups or {(None, None): []}:
        clean, everywhere, donor = (
            [row for row in rows if row["control"] == control and row["intervention"] in (None, intervention)]
            for control in _REFERENCES
        )
        windows = groups.get((intervention, size), [])
        pictures = [*clean, *windows, *everywhere, *donor]
        title = f"Windows of {_sites(size)}" if windows else "Without windows"
        if pictures:
            yield _section(snapshot, f"{title}: {intervention}" if several and windows else title, pictures)
    yield from _others(snapshot, rows)


def _others(snapshot: Snapshot, rows: list[dict[str, Any]]) -> Iterable[Section]:
    titles = {
        "identity": "Identity: the prompt in place of the donor",
        "complement": "Complement: all sites but a window",
        "random": "Random sites",
    }
    for control, title in titles.items():
        pictures = [row for row in rows if row["control"] == control]
        if pictures:
            yield _section(snapshot, title, pictures)
    edits = [row for row in rows if row["control"] in ("before", "edited")]
    if edits:
        yield _section(snapshot, "Edits", edits)


def _section(snapshot: Snapshot, title: str, rows: Iterable[dict[str, Any]]) -> Section:
    return Section(title, tuple(_picture(snapshot, row, set()) for row in rows))


def _picture(snapshot: Snapshot, row: dict[str, Any], several: set[str]) -> Picture:
    title = _title(row, snapshot.edits)
    about = [row[name] for name in ("model", "attribute", "intervention") if name in several and row[name]]
    about += [f"seed {row['seed']}"] if "seed" in several else []
    address = f"{row['file']}/{row['row']}"
    same = {item.name: str(row[item.column]) for item in _COMPARED}
    return Picture(
        f"/image/{address}.png", f"/details/{address}.json", _address("/compare", same), row["control"], title,
        " · ".join(about), row["prompt"] if "prompt" in several else "",
        f"{title}, seed {row['seed']}, {row['model']}, {row['attribute']}: {row['prompt']}",
    )  # fmt: skip


def _title(row: dict[str, Any], edits: Mapping[str, str]) -> str:
    control, start, size, sites = (row[n] for n in ("control", "window_start", "window_size", "site_indices"))
    if control in ("window", "complement") and start is not None:
        where = f"site {start}" if size == 1 else f"sites {start}-{start + size - 1}"
        return where if control == "window" else f"all but {where}"
    if control == "random" and sites:
        return f"random: {', '.join(map(str, sites))}"
    if control == "random" and size:
        return f"random: {_sites(size)}"
    if control == "edited":
        role = f" · {row['prompt_role']}" if row["prompt_role"] else ""
        return edits.get(row["edit_id"], f"edit {row['edit_id'][:12]}") + role
    return _words(control)


def _sites(size: int) -> str:
    return "1 site" if size == 1 else f"{size} sites"


def _words(control: str) -> str:
    return _CONTROL_WORDS.get(control, control)


def _select(snapshot: Snapshot, item: _Filter, offered: list[Any], chosen: str, *, every: bool) -> Select:
    values = [str(value) for value in offered]
    if chosen and chosen not in values:
        values.append(chosen)
    options = [Option(value, _option(snapshot, item, value)) for value in values]
    return Select(item.name, item.label, chosen, (*([Option("", "All")] if every else []), *options))


def _option(snapshot: Snapshot, item: _Filter, value: str) -> str:
    if item.name == "control":
        return _words(value)
    if item.name == "edit":
        return f"{snapshot.edits.get(value, 'edit')} ({value[:12]})"
    return value


def _offered(rows: pa.Table, column: str) -> list[Any]:
    found = [value for value in pc.unique(rows[column]).to_pylist() if value is not None]
    if column == "control":
        return sorted(found, key=lambda value: (CONTROLS.index(value) if value in CONTROLS else len(CONTROLS), value))
    return sorted(found)


def _mask(rows: pa.Table, item: _Filter, value: str) -> pc.Expression:
    column = rows[item.column]
    wanted = _number(item.name, value) if pa.types.is_integer(column.type) else value
    try:
        return pc.field(item.column) == pc.scalar(pa.scalar(wanted, column.type))
    except (OverflowError, pa.ArrowInvalid) as error:
        raise ViewError(f"{item.name}={value}: too large") from error


def _masked(rows: pa.Table, masks: Iterable[pc.Expression]) -> pa.Table:
    return rows.filter(reduce(and_, masks, pc.scalar(True)))


def _number(name: str, value: str) -> int:
    try:
        return int(value)
    except ValueError as error:
        raise ViewError(f"{name}={value}: expected a whole number") from error


def _modes(chosen: Mapping[str, str]) -> tuple[str, str]:
    kept = {name: chosen[name] for name in ("model", "attribute", "seed") if name in chosen}
    return _address("/", kept), _address("/compare", kept)


def _address(path: str, values: Mapping[str, str], page: int = 1) -> str:
    query = urlencode({**values, **({"page": page} if page > 1 else {})})
    return f"{path}?{query}" if query else path
