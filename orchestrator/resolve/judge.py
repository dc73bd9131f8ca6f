"""The judge of a sweep, looked up: its model's hash, its settings, the classes that it tells apart. Without torch."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

from loco_core import plugins
from loco_core.diffusion.folders import scorer_files
from loco_core.diffusion.hub import cached_folder, on_hub
from loco_core.diffusion.weights import absolute, commit, file_hash, read_json, weights_hash
from loco_core.errors import LocoError, ModelError, SpecError
from loco_core.scoring.base import JudgeChoice, JudgeTask, find_scorer, judge_id, judge_task
from loco_core.scoring.classes import classes_of
from loco_core.types import Attribute
from orchestrator.resolve.resolved import ResolvedJudge, ResolvedScorer
from orchestrator.spec import SweepSpec

PICTURES = (".png", ".jpg", ".jpeg", ".webp")


def check_judge(spec: SweepSpec, attributes: Sequence[Attribute]) -> None:
    """Refuses a judge that is unknown, lacks something, or does not see what is edited; looks at no weights.

    Raises:
        SpecError: it does; ``loc`` says where in the sweep.
    """
    if spec.edit is not None and spec.edit.choose_by == "judge" and spec.evaluate.judge is None:
        error = SpecError("it is judge, but there is none; expected evaluate: {judge: ..}, or scorer")
        error.loc = ("edit", "choose_by")
        raise error
    if spec.evaluate.judge is None:
        return
    with _located():
        choice = _choice(spec)
        plugins.function("judges", choice.use, "Judge")
        task = judge_task(choice, classes_of(attributes))
        if task is None:
            return
        for item in attributes:
            _check_seen(
                Path(choice.use).name, choice, task, item, spec.edit is not None and spec.evaluate.neighbours > 0
            )


def _check_seen(name: str, choice: JudgeChoice, task: JudgeTask, item: Attribute, watched: bool) -> None:
    """Refuses an attribute that a judge does not see, or whose donor or neighbours it does not know.

    Args:
        name: the judge's, for messages.
        choice: the judge as a sweep names it.
        task: what it tells apart.
        item: the attribute.
        watched: whether edits are to leave its neighbours alone; which ones is known once the model is loaded.
    """
    if item.kind not in task.classes:
        raise SpecError(
            f"{name} is asked about {', '.join(sorted(task.classes))}, so that nothing would judge edits of "
            f"{item.key}; expected a judge that sees the kind {item.kind}"
        )
    seen = getattr(plugins.load("judges", choice.use), "seen", None)
    if seen is None:
        return
    known, found = seen(task, item.kind), task.classes[item.kind]
    for text in (item.records[0].prompt, item.records[0].donor):
        if (said := found.said(text)) is not None and said not in known:
            raise SpecError(f'{name} has nothing to know "{said}" by, which edits of {item.key} are about; it knows '
                            f"{', '.join(known)}")  # fmt: skip
    unseen = [each for each in found.names[: found.attributes] if each not in known]
    if watched and unseen:
        raise SpecError(
            f"{name} has nothing to know {', '.join(unseen)} by, neighbours of {item.key} that edits are to leave "
            "alone: it would see none of them spoilt; expected all of the kind, or evaluate: {neighbours: 0}"
        )


def resolve_judge(
    spec: SweepSpec, attributes: Sequence[Attribute], scorer: ResolvedScorer, *, hub: bool = True
) -> ResolvedJudge | None:
    """Looks up the judge of a sweep; None where it has none.

    Args:
        spec: the sweep, see `check_judge`.
        attributes: its attributes.
        scorer: its scorer, looked up.
        hub: whether a hub id is pinned to a commit; else its weights stay unknown.

    Raises:
        SpecError: it would judge by the weights of the scorer.
        ModelError: its model is of another kind, or cannot be had.
    """
    if spec.evaluate.judge is None:
        return None
    with _located():
        choice, classes = _choice(spec), classes_of(attributes)
        task = judge_task(choice, classes)
        name = judge_id(choice.use)
        if task is None:
            return _own(name, choice, scorer, hub=hub)
        path = choice.model
        if not Path(path).is_dir() and not on_hub(path):
            raise ModelError(f"no folder {path}; expected the folder of a model of transformers, or a hub id")
        pinned = commit(path, choice.revision) if hub and on_hub(path) else choice.revision
        weights = ""
        if hub or Path(path).is_dir():
            _check_type(choice, pinned)
            weights = weights_hash(path, pinned, _files_of(choice.use))
            _check_apart(choice, pinned, weights, scorer)
        pictures = pictures_hash(choice.pictures) if choice.pictures else ""
        what = {
            "weights": weights, "settings": task.settings.model_dump(mode="json"), "pictures": pictures,
            # Not which prompts say them: one more would have all measured anew.
            "classes": {kind: [asdict(item) for item in found.classes] for kind, found in task.classes.items()},
        }  # fmt: skip
        digest = hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()
        model = path if on_hub(path) else Path(path).name
        return ResolvedJudge(
            id=f"{name}:{model}@{digest[:8]}", use=choice.use, model=absolute(path), revision=pinned, weights=weights,
            pictures=choice.pictures, pictures_hash=pictures, settings=dict(choice.settings), asked=choice.revision,
        )  # fmt: skip


def _own(name: str, choice: JudgeChoice, scorer: ResolvedScorer, *, hub: bool) -> ResolvedJudge:
    """Looks up a judge that takes no model: it brings its weights, in a folder or on the hub, or has none."""
    own = _brought(choice.use)
    if not own or (on_hub(own) and not hub):
        return ResolvedJudge(id=name, use=choice.use, revision=choice.revision, asked=choice.revision)
    revision = commit(own, choice.revision) if on_hub(own) else None
    shared = _are_same((own, revision), (find_scorer(scorer.source)[1], scorer.revision))
    return ResolvedJudge(
        # Two commits are two judges.
        id=f"{name}:{own}@{revision[:8]}" if revision else name, use=choice.use, revision=revision,
        weights=weights_hash(own, revision), is_scorer=shared, asked=choice.revision,
    )  # fmt: skip


def pictures_hash(folder: str) -> str:
    """Returns a hash of the pictures of a folder of folders: of their names and bytes."""
    digest, top = hashlib.sha256(), Path(folder)
    for file in sorted(top.rglob("*")):
        if file.suffix.lower() in PICTURES:
            digest.update(f"{file.relative_to(top).as_posix()} {file_hash(file)}\n".encode())
    return digest.hexdigest()


@contextmanager
def _located() -> Iterator[None]:
    try:
        yield
    except LocoError as error:
        error.loc = ("evaluate", "judge", *error.loc)
        raise


def _choice(spec: SweepSpec) -> JudgeChoice:
    wanted = spec.evaluate.judge
    assert wanted is not None
    if wanted.revision is not None and not on_hub(wanted.model or _brought(wanted.use)):
        raise SpecError(f"revision {wanted.revision} is given, but no hub id as model; expected none")
    return JudgeChoice(wanted.use, wanted.model or "", wanted.revision, wanted.pictures or "", wanted.settings)


def _brought(use: str) -> str:
    """Returns the folder or hub id of the weights that a judge brings itself; empty where it has none."""
    where = str(getattr(plugins.load("judges", use), "WEIGHTS", ""))
    return where if Path(where).is_dir() or on_hub(where) else ""


def _check_type(choice: JudgeChoice, revision: str | None) -> None:
    """Refuses models of a kind that a judge cannot ask."""
    if Path(choice.model).is_dir() and not (Path(choice.model) / "config.json").is_file():
        raise ModelError(f"{choice.model} holds no config.json; expected the folder of a model of transformers")
    served: tuple[str, ...] = plugins.declared("judges", choice.use, "MODEL_TYPES", ())
    kind = read_json(choice.model, revision, "config.json").get("model_type", "")
    if served and kind not in served:
        name = Path(choice.use).name
        raise ModelError(f"{choice.model} holds a {kind} model; {name} takes one whose model_type is {_or(served)}")


def _check_apart(choice: JudgeChoice, revision: str | None, weights: str, scorer: ResolvedScorer) -> None:
    """Refuses the weights that scores come from: who localized an edit is not to grade it, too."""
    where = find_scorer(scorer.source)[1]
    if weights == scorer.weights or _are_same((choice.model, revision), (where, scorer.revision)):
        raise SpecError(
            f"{choice.model} holds the weights of the scorer {scorer.name}: what localized an edit would grade it, "
            "too; expected another model"
        )


def _are_same(one: tuple[str, str | None], other: tuple[str, str | None]) -> bool:
    """Tells whether two models on this machine hold the same files of weights, whatever lies beside them."""
    folders = [cached_folder(path, revision, "config.json") for path, revision in (one, other) if path]
    if len(folders) < 2:
        return False
    files = [sorted(folder.glob("*.safetensors")) if folder else [] for folder in folders]
    sizes = [[file.stat().st_size for file in found] for found in files]
    if not files[0] or sizes[0] != sizes[1]:
        return False
    return [file_hash(file) for file in files[0]] == [file_hash(file) for file in files[1]]


def _files_of(use: str) -> Callable[[Path], Iterable[Path]]:
    more: tuple[str, ...] = plugins.declared("judges", use, "FILES", ())
    return lambda folder: (*scorer_files(folder), *(folder / name for name in more if (folder / name).is_file()))


def _or(words: Sequence[str]) -> str:
    return " or ".join(words)
