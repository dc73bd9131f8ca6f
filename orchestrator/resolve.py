"""From names to what they stand for: paths, revisions, weight hashes, sites. Without torch; frozen before planning."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from loco_core import registry
from loco_core.attributes import attribute
from loco_core.errors import LocoError, ModelError, SpecError, did_you_mean
from loco_core.models import FamilyInfo, families, family_of_pipeline, find_model
from loco_core.scorers import BUNDLED
from loco_core.types import Attribute, Engine
from orchestrator.spec import AttributeSpec, ModelSpec, SweepSpec, WorkerNeeds

# Pickled weights run code when they are read.
_PICKLES = ("*.bin", "*.ckpt", "*.pt", "*.pth")


class ResolvedModel(BaseModel):
    """A model of the sweep, pinned.

    Attributes:
        id: its name in the results.
        family: key of its family.
        path: folder or hub id.
        revision: commit on the hub; None for a folder.
        weights: hash of weights and configuration (of a hub model, its commit).
        dtype: of weights and activations.
        engine: how it computes.
        site_names: addresses of its sites in execution order.
        native_side: side of an image in pixels where the sweep does not say; an upper bound.
        seconds_per_image: expected cost of an image of 50 steps.
        worker: what a worker needs.
        probed_batch: rows a forward pass, where the sweep leaves them to a probe that has been made.
    """

    model_config = ConfigDict(frozen=True)

    id: str
    family: str
    path: str
    revision: str | None
    weights: str
    dtype: str
    engine: Engine = Engine()
    site_names: tuple[str, ...]
    native_side: int
    seconds_per_image: float
    worker: WorkerNeeds
    probed_batch: int | None = None

    @property
    def n_sites(self) -> int:
        """How many sites it has."""
        return len(self.site_names)

    @property
    def editable_sites(self) -> tuple[int, ...]:
        """The sites whose K and V an edit may change."""
        shared = families()[self.family].shared
        return tuple(i for i, name in enumerate(self.site_names) if not (shared and name.startswith(shared)))


class ResolvedScorer(BaseModel):
    """The scorer, pinned.

    Attributes:
        name: as in the sweep.
        source: what a worker loads: the name of a bundled scorer, a folder, or a hub id.
        revision: commit on the hub; None for a folder.
        weights: hash of its weights (of a hub model, its commit).
    """

    model_config = ConfigDict(frozen=True)

    name: str
    source: str
    revision: str | None
    weights: str


class Resolved(BaseModel):
    """A sweep with every name looked up."""

    model_config = ConfigDict(frozen=True)

    models: tuple[ResolvedModel, ...]
    attributes: tuple[Attribute, ...]
    scorer: ResolvedScorer

    def model(self, model_id: str) -> ResolvedModel:
        """Returns a model by its id."""
        return next(model for model in self.models if model.id == model_id)

    def attribute(self, key: str) -> Attribute:
        """Returns an attribute by its key."""
        return next(item for item in self.attributes if item.key == key)


def resolve(spec: SweepSpec) -> Resolved:
    """Looks up every name of a sweep.

    Raises:
        SpecError: a name is unknown, or a window is larger than a model.
        ModelError: a folder is not a pipeline, or holds pickles where safetensors belong.
    """
    models = []
    for i, item in enumerate(spec.models):
        with _at("models", i):
            models.append(resolve_model(item))
    for model in models:
        largest = max(spec.windows.sizes)
        if largest > model.n_sites:
            with _at("windows", "sizes", spec.windows.sizes.index(largest)):
                raise SpecError(
                    f"windows.sizes: {largest} is larger than {model.id}, which has {model.n_sites} cross-attention "
                    "sites"
                )
        _check_options(spec, model)
    attributes = check_names(spec)
    with _at("scorer"):
        scorer = _scorer(spec)
    return Resolved(models=tuple(models), attributes=attributes, scorer=scorer)


def _check_options(spec: SweepSpec, model: ResolvedModel) -> None:
    """Refuses options that mean nothing in a model's family."""
    facts = families()[model.family]
    if spec.edit is not None and model.engine.offload == "sequential":
        with _at("models", [item.id for item in spec.models].index(model.id), "engine", "offload"):
            raise SpecError(
                f"weights of {model.id} that are offloaded layer by layer cannot be edited; expected offload: model, "
                "or no edit"
            )
    for i, option in enumerate(spec.interventions):
        if option.pooled == "donor" and not facts.pooled:
            with _at("interventions", i, "pooled"):
                raise SpecError(f"nothing in {model.id} ({model.family}) reads a pooled text; expected pooled: prompt")
        if option.guidance_half != "conditional" and not facts.guided:
            with _at("interventions", i, "guidance_half"):
                raise SpecError(
                    f"{model.id} ({model.family}) has distilled guidance, without an unconditional half; expected "
                    "guidance_half: conditional"
                )
    for side in ("height", "width"):
        if (pixels := getattr(spec.generation, side)) is not None and pixels % facts.side_multiple:
            with _at("generation", side):
                raise SpecError(f"{pixels} is no side of {model.id}; expected a multiple of {facts.side_multiple}")
    if spec.generation.scheduler is not None:
        with _at("generation", "scheduler"):
            whose = f" for {model.id} ({model.family})"
            _check_scheduler(spec.generation.scheduler, facts.schedulers or _karras(), whose)
    if not facts.guided and "guidance_scale" not in spec.generation.model_fields_set:
        with _at("models", [item.id for item in spec.models].index(model.id)):
            raise SpecError(
                f"{model.id} ({model.family}) is distilled for a guidance scale of its own; expected a "
                "generation.guidance_scale in the sweep, for FLUX.1-dev 3.5"
            )
    if facts.stream == "evolving" and spec.generation.batch_size == 1:
        with _at("generation", "batch_size"):
            raise SpecError(
                f"every image of {model.id} reads from one that draws its donor beside it; expected a batch_size of 2 "
                "or more"
            )


def check_names(spec: SweepSpec) -> tuple[Attribute, ...]:
    """Looks up the names of a sweep that a machine without any weights knows; returns its attributes.

    Raises:
        SpecError: a name is unknown; ``loc`` says where in the sweep.
    """
    attributes = []
    for i, item in enumerate(spec.models):
        if item.path is None:
            with _at("models", i):
                find_model(item.id)
    for i, name in enumerate(spec.attributes):
        with _at("attributes", i):
            attributes.append(_attribute(name, spec.prompts))
    with _at("localize", "localizer"):
        registry.function("localizers", spec.localize.localizer, "localize")
    for i, editor in enumerate(spec.edit.editors if spec.edit else ()):
        with _at("edit", "editors", i):
            registry.function("editors", editor, "edit")
    if spec.generation.scheduler is not None:
        with _at("generation", "scheduler"):
            others = {name for facts in families().values() for name in facts.schedulers}
            _check_scheduler(spec.generation.scheduler, {*_karras(), *others})
    return tuple(attributes)


@contextmanager
def _at(*loc: str | int) -> Iterator[None]:
    """Notes in an error which value of the sweep it is about."""
    try:
        yield
    except LocoError as error:
        error.loc = loc
        raise


def _check_scheduler(name: str, known: Collection[str], whose: str = "") -> None:
    if name not in known:
        raise SpecError(f'no scheduler "{name}"{whose}{did_you_mean(name, known)}')


def _karras() -> tuple[str, ...]:
    """Returns the names of the schedulers that most families work with."""
    from diffusers.schedulers import KarrasDiffusionSchedulers

    return tuple(item.name for item in KarrasDiffusionSchedulers)


def _attribute(item: str | AttributeSpec, prompts: int) -> Attribute:
    if isinstance(item, AttributeSpec):
        return item.attribute
    found = attribute(item)
    if len(found.records) < prompts:
        raise SpecError(f"prompts: {prompts} are asked for, {item} has {len(found.records)}")
    return found


def resolve_model(spec: ModelSpec) -> ResolvedModel:
    """Looks up one model.

    Raises:
        SpecError: no model has this name.
        ModelError: it is not a pipeline, or holds pickles where safetensors belong.
    """
    if spec.path is None:
        family, known = find_model(spec.id)
        path = str(known.path or known.hub_id)
        revision, seconds = spec.revision or known.revision, known.seconds_per_image
    else:
        family, path, revision, seconds = "", spec.path, spec.revision, 0.0
    index = _read_json(path, revision, "model_index.json")
    class_name = str(index.get("_class_name", "unnamed class"))
    family = family or family_of_pipeline(class_name, path)
    info = families()[family]
    site_names, native_side = _facts(info, _read_json(path, revision, info.config_file), path)
    weights = _weights(path, revision)
    return ResolvedModel(
        id=spec.id,
        family=family,
        path=_absolute(path),
        # The commit, not the name of a branch: what is hashed is what every worker loads.
        revision=weights.removeprefix("hub:") if weights.startswith("hub:") else None,
        weights=weights,
        dtype=spec.dtype,
        engine=spec.how,
        site_names=site_names,
        native_side=native_side,
        seconds_per_image=seconds or info.seconds_per_image,
        worker=spec.worker,
    )


def _facts(info: FamilyInfo, config: dict[str, Any], path: str) -> tuple[tuple[str, ...], int]:
    try:
        return info.site_names(config), info.native_side(config)
    except (KeyError, TypeError, IndexError) as error:
        raise ModelError(f"{path}/{info.config_file} is not the configuration of a denoiser: {error!r}") from error


def _scorer(spec: SweepSpec) -> ResolvedScorer:
    path = BUNDLED.get(spec.scorer)
    if path is None and not Path(spec.scorer).is_dir() and "/" not in spec.scorer:
        raise SpecError(
            f'scorer: no scorer "{spec.scorer}"{did_you_mean(spec.scorer, BUNDLED)}; or CLIP model\'s folder or hub id'
        )
    where = str(path or spec.scorer)
    revision = None if Path(where).is_dir() else _commit(where, None)
    name = spec.scorer if spec.scorer in BUNDLED else _absolute(spec.scorer)
    return ResolvedScorer(name=spec.scorer, source=name, revision=revision, weights=_weights(where, revision))


def _absolute(path: str) -> str:
    """Returns a folder's full path: workers run in folders of their own."""
    return str(Path(path).resolve()) if Path(path).is_dir() else path


def _read_json(path: str, revision: str | None, name: str) -> dict[str, Any]:
    folder = Path(path)
    looks_local = folder.is_absolute() or path.startswith(".") or path.count("/") != 1
    if not folder.is_dir() and looks_local:
        raise ModelError(f"no folder {path}; expected a diffusers pipeline folder or a hub id like owner/name")
    file = folder / name
    if not folder.is_dir():
        file = _download(path, revision, name)
    if not file.is_file():
        raise ModelError(f"{path} is not a diffusers pipeline: {name} is missing")
    try:
        content = json.loads(file.read_text())
    except (ValueError, UnicodeDecodeError) as error:
        raise ModelError(f"{file} is damaged: {error}") from error
    if not isinstance(content, dict):
        raise ModelError(f"{file} is damaged: expected an object")
    return content


def _download(repository: str, revision: str | None, name: str) -> Path:
    from huggingface_hub import hf_hub_download

    try:
        return Path(hf_hub_download(repository, name, revision=revision))
    except Exception as error:  # the hub's client raises a dozen unrelated classes
        reason = str(error).strip().splitlines()[0]
        raise ModelError(f"cannot get {name} of {repository} from the hub or its local cache: {reason}") from error


def _commit(repository: str, revision: str | None) -> str:
    """Returns the commit that a hub revision stands for; of the local cache where the hub cannot be reached."""
    return _download(repository, revision, "config.json").parent.name


def _weights(path: str, revision: str | None) -> str:
    folder = Path(path)
    if not folder.is_dir():
        return f"hub:{_download(path, revision, _index_name(path, revision)).parent.name}"
    files = sorted(_weight_files(folder))
    if not any(file.suffix == ".safetensors" for file in files):
        pickles = [file for pattern in _PICKLES for file in folder.rglob(pattern)]
        held = f"; {pickles[0].relative_to(folder)} is a pickle, which is never read" if pickles else ""
        raise ModelError(f"{path} holds no safetensors weights{held}")
    digest = hashlib.sha256()
    for file in files:
        with file.open("rb") as stream:
            content = hashlib.file_digest(stream, "sha256").hexdigest()
        digest.update(f"{file.relative_to(folder).as_posix()} {content}\n".encode())
    return digest.hexdigest()


def _index_name(path: str, revision: str | None) -> str:
    try:
        _download(path, revision, "model_index.json")
    except ModelError:
        return "config.json"
    return "model_index.json"


def _weight_files(folder: Path) -> Iterator[Path]:
    for pattern in ("*.safetensors", "*.json", "*.txt"):
        yield from (file for file in folder.rglob(pattern) if file.is_file())
