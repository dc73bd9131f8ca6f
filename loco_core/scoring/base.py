"""What is asked of pictures: the scorers say how well one fits a text, the judges what one shows; one file each.

A scorer's file exports a class ``Scorer`` that fulfils :class:`Scorer`, a judge's file a class ``Judge`` that fulfils
:class:`Judge`; both are built from a path, a revision and a device. Its key is what a sweep calls it. A file may say:

- ``WEIGHTS``: folder or hub id of its weights, which becomes the path; empty where it has none;
- ``TOKENIZED`` (scorers): whether a tokenizer beside the weights tells how much of a text is read. Longer texts are
  refused before anything is drawn;
- ``Settings`` (judges): a :class:`JudgeSettings`. Such a judge takes a model that a sweep names, and is built from a
  fourth value, a :class:`JudgeTask`: the classes that it chooses among, and its settings. Beside it ``MODEL_TYPES``
  says which ``model_type`` the model may have (none: any), ``PICTURES`` whether it wants a folder of pictures,
  ``FILES`` which further files of the model's folder it reads; a function ``passes(task)`` returns how many times it
  reads a picture, for the estimate of `plan`; a function ``check(task)`` refuses what it cannot judge,
  and ``seen(task, kind)`` returns the classes that it may name, where these are not all.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Protocol

import numpy as np
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from loco_core import plugins
from loco_core.errors import SpecError, did_you_mean
from loco_core.plugin_settings import about, checked
from loco_core.quiet import quiet_libraries
from loco_core.scoring.classes import KindClasses

if TYPE_CHECKING:
    import torch

OF_FOLDERS = "clip"
"""The scorer of models that a sweep names by their folder or hub id."""
UNKNOWN = ("other", "unsure")
"""What a judge says where it names no class."""


class Scorer(Protocol):
    """Scores pictures against texts in two steps, so that new texts can be scored later without the pictures."""

    def embed_images(self, images: torch.Tensor) -> np.ndarray:
        """Returns float32 embeddings ``(n, width)`` of pictures ``(n, 3, height, width)`` in [0, 1]."""

    def score(self, embeddings: np.ndarray, texts: list[str]) -> np.ndarray:
        """Returns float64 scores ``(n, texts)``, larger where the picture fits the text better."""


class Judge(Protocol):
    """Names what a picture shows, kind by kind; edits are measured by it."""

    @property
    def kinds(self) -> tuple[str, ...]:
        """Kinds of attributes that it sees, e.g. ``style``."""

    def embed_images(self, images: torch.Tensor) -> np.ndarray:
        """Returns float32 ``(n, width)`` of pictures ``(n, 3, height, width)`` in [0, 1]; all that `name` needs."""

    def name(self, embeddings: np.ndarray, kind: str) -> list[str]:
        """Names what each picture shows of one kind.

        ``other`` is none of the classes that it knows, and ``unsure`` is where it abstains.
        """

    def said(self, text: str, kind: str) -> str | None:
        """Returns the class of a kind that a prompt says; None where it says nothing of it."""


def margin_of(scores: np.ndarray) -> tuple[float, float]:
    """Returns what a picture's margin is the difference of: the attribute's own score, and what it is taken against.

    The latter is the largest score of the other texts: below it the picture looks like something else, whatever that
    is. A log-mean-exp decides no better (see the page on the margin), and its sign means less.

    Args:
        scores: of one picture ``(1 + texts,)``: with ``score_text``, and with the texts of
            `loco_core.types.PromptRecord.against`.
    """
    return float(scores[0]), float(np.max(scores[1:]))


def find_scorer(name: str) -> tuple[str, str]:
    """Finds what a sweep means by a scorer's name.

    Args:
        name: a key of the plug-in group, a Python file, or a CLIP model's hub id or folder.

    Returns:
        the key of the plug-in, and what its weights are read from; empty where it has none.

    Raises:
        SpecError: there is no such file.
    """
    if name.endswith(".py") or name in named_scorers():
        return name, _weights("scorers", name)
    return OF_FOLDERS, name


def made_for(name: str) -> int:
    """Returns the side in pixels of the only pictures that a scorer knows, the ``SIDE`` of its module; 0 where all.

    Args:
        name: as of :func:`find_scorer`.
    """
    return int(getattr(plugins.load("scorers", find_scorer(name)[0]), "SIDE", 0))


def named_scorers() -> tuple[str, ...]:
    """Returns the keys of scorers that sweeps name by their key."""
    return tuple(key for key in plugins.keys("scorers") if key != OF_FOLDERS)


def load_scorer(name: str, revision: str | None, device: str) -> Scorer:
    """Loads a scorer.

    Args:
        name: as of :func:`find_scorer`.
        revision: the hub's commit; None for a folder, a bundled model, or no weights.
        device: e.g. ``cuda`` or ``cpu``.

    Raises:
        ModelError: it cannot be loaded.
        SpecError: there is no such file, or it has no ``Scorer``.
    """
    quiet_libraries()
    key, path = find_scorer(name)
    scorer: Scorer = plugins.function("scorers", key, "Scorer")(path, revision, device)
    return scorer


def _listed(value: Any) -> Any:
    return (value,) if isinstance(value, str) else tuple(value) if isinstance(value, list) else value


Kinds = Annotated[Annotated[tuple[str, ...], Field(min_length=1)] | None, BeforeValidator(_listed)]
"""Kinds of attributes: a list, or one alone."""


class JudgeSettings(BaseModel):
    """Settings of a judge that takes a model: the keys of a sweep's ``evaluate.judge`` beside those of all judges.

    Attributes:
        kinds: kinds that it is asked about; None for all that the sweep and the bundled attributes beside it have.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    kinds: Kinds = None


@dataclass(frozen=True)
class JudgeTask:
    """What a judge with settings is to tell apart.

    Attributes:
        classes: the classes by kind.
        settings: its settings, of its own class.
        pictures: folder with pictures of the classes; empty where it has none.
    """

    classes: Mapping[str, KindClasses]
    settings: Any
    pictures: str = ""


@dataclass(frozen=True)
class JudgeChoice:
    """A judge as a sweep names it.

    Attributes:
        use: key of the plug-in group, or a Python file.
        model: folder or hub id of its model; empty where it brings its own.
        revision: the hub's commit; None for a folder or a judge without a model.
        pictures: folder with pictures of the classes.
        settings: its own settings, by name.
    """

    use: str
    model: str = ""
    revision: str | None = None
    pictures: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)


def load_judge(judge: str | JudgeChoice, device: str, classes: Mapping[str, KindClasses] | None = None) -> Judge:
    """Loads a judge.

    Args:
        judge: a judge as a sweep names it, or a key or Python file alone.
        device: e.g. ``cuda`` or ``cpu``.
        classes: classes by kind, see `loco_core.scoring.classes.classes_of`; only a judge with settings reads them.

    Raises:
        ModelError: it cannot be loaded.
        SpecError: there is no such file, it has no ``Judge``, or it takes other settings.
    """
    quiet_libraries()
    choice = JudgeChoice(judge) if isinstance(judge, str) else judge
    made = plugins.function("judges", choice.use, "Judge")
    task = judge_task(choice, classes or {})
    path = choice.model or _weights("judges", choice.use)
    found: Judge = made(path, choice.revision, device, *([task] if task is not None else []))
    return found


def judge_task(choice: JudgeChoice, classes: Mapping[str, KindClasses]) -> JudgeTask | None:
    """Returns what a judge with settings is to tell apart; None of one that takes none.

    Args:
        choice: the judge as a sweep names it.
        classes: all classes, by kind.

    Raises:
        SpecError: it does not take what was given, or lacks something; ``loc`` begins with the key.
    """
    given = {"model": choice.model, "pictures": choice.pictures, **choice.settings}
    kind: type[JudgeSettings] | None = getattr(plugins.load("judges", choice.use), "Settings", None)
    named = Path(choice.use).name
    if kind is None:
        for key, value in given.items():
            if value:
                raise about(key, f"{named} takes no settings, but {key} is given; expected its name alone")
        return None
    pictures = plugins.declared("judges", choice.use, "PICTURES", False)
    if not choice.model:
        raise SpecError(f"{named} needs a model: {{use: {named}, model: FOLDER or hub id}}")
    if bool(choice.pictures) != pictures:
        wanted = "needs pictures: FOLDER, with a folder of pictures per class" if pictures else "takes no pictures"
        raise about("pictures", f"{named} {wanted}")
    settings = checked(kind, named, choice.settings, ("use", "model", "revision"))
    kinds = settings.kinds or tuple(classes)
    for each in kinds:
        if each not in classes:
            raise about("kinds", f'{named}: no attribute is of the kind "{each}"{did_you_mean(each, classes)}')
    task = JudgeTask({each: classes[each] for each in kinds}, settings, choice.pictures)
    check = getattr(plugins.load("judges", choice.use), "check", None)
    if check is not None:
        check(task)
    return task


def judge_id(name: str) -> str:
    """Returns what a judge is called in results; that of an outside one tells one version of its code from another.

    Raises:
        SpecError: there is no such judge.
    """
    return plugins.identity("judges", name)


def _weights(group: str, key: str) -> str:
    return str(getattr(plugins.load(group, key), "WEIGHTS", ""))
