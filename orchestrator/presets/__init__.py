"""Sweeps that repeat a published work, one file each, and what that work published (``published.yaml``)."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Literal

import yaml
from pydantic import BaseModel, ConfigDict

from loco_core.errors import SpecError, did_you_mean
from loco_core.types import Window

_FOLDER = Path(__file__).parent
_PUBLISHED = _FOLDER / "published.yaml"
Source = Literal["text of the paper", "code of the paper", "third-party reading, uncertain"]
"""How sure it is that something was published so."""


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class SmallestWindow(_Frozen):
    """The size at which a published search for the smallest window stopped."""

    size: int
    source: Source


class PublishedWindow(_Frozen):
    """Where something was published to sit.

    Attributes:
        attributes: keys of attributes (``kind/name``) or kinds that it was published for.
        start: its first site in execution order.
        size: number of sites.
        source: how sure that is.
    """

    attributes: tuple[str, ...]
    start: int
    size: int
    source: Source

    @property
    def window(self) -> Window:
        """The window."""
        return Window(self.start, self.size)


class PublishedEdit(_Frozen):
    """What an edit was published to do to pictures that have nothing to do with it.

    Attributes:
        editor: key of the editor that was fitted as published.
        kind: kind of the attributes that were edited.
        before: mean CLIP score without the edit, 100 times the cosine of picture and prompt.
        after: mean CLIP score with it.
        prompts: prompts of those pictures, in words.
        source: how sure that is.
    """

    editor: str
    kind: str
    before: float
    after: float
    prompts: str
    source: Source


class Published(_Frozen):
    """What a work published of one model.

    Attributes:
        work: authors and place of the work.
        by: what it goes by, in words.
        model: the model, as a sweep names it.
        smallest: size of the smallest window; None where none was found published.
        windows: windows where things were published to sit.
        edits: scores that edits were published to leave of unrelated pictures.
        notes: sentences that a reader must know beside it.
    """

    work: str
    by: str
    model: str
    smallest: SmallestWindow | None = None
    windows: tuple[PublishedWindow, ...] = ()
    edits: tuple[PublishedEdit, ...] = ()
    notes: tuple[str, ...] = ()

    def window_of(self, attribute: str) -> PublishedWindow | None:
        """Returns the window published for an attribute, or else for its kind; None where there is none.

        Args:
            attribute: ``kind/name``.
        """
        kind = attribute.partition("/")[0]
        return next((item for name in (attribute, kind) for item in self.windows if name in item.attributes), None)


def presets() -> dict[str, Published]:
    """Returns what was published beside every preset, by its name."""
    return dict(_published())


def published(name: str) -> Published:
    """Returns what was published beside one preset.

    Raises:
        SpecError: there is none of that name.
    """
    known = _published()
    if name not in known:
        raise SpecError(f'no preset "{name}"{did_you_mean(name, known)}')
    return known[name]


def preset_file(name: str) -> Path:
    """Returns a preset's sweep file.

    Raises:
        SpecError: there is none of that name.
    """
    published(name)
    return _FOLDER / f"{name}.yaml"


@cache
def _published() -> dict[str, Published]:
    content = yaml.safe_load(_PUBLISHED.read_text(encoding="utf-8"))
    return {name: Published.model_validate(item) for name, item in content.items()}
