"""What a sweep's names stand for, pinned: frozen before planning, and what workers load. Without torch."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from pydantic import BaseModel, ConfigDict

from loco_core.diffusion.default.profile import Profile
from loco_core.diffusion.facts import FamilyInfo, families
from loco_core.editing.base import editor_info, evolving_text
from loco_core.errors import SpecError
from loco_core.scoring.base import JudgeChoice
from loco_core.types import Attribute, Engine, Extras, Generation
from orchestrator.spec import WorkerNeeds


class ResolvedSuperResolution(BaseModel):
    """A second stage, pinned.

    Attributes:
        path: folder or hub id.
        revision: commit on the hub; None for a folder.
        weights: hash of weights and configuration (on the hub, its commit).
        native_side: side of its images in pixels where the sweep does not say; 0 where nobody has looked.
    """

    model_config = ConfigDict(frozen=True)

    path: str
    revision: str | None
    weights: str
    native_side: int


class ResolvedDonor(BaseModel):
    """Another model as donor, pinned.

    Attributes:
        family: key of its family.
        path: folder, hub id, or checkpoint in one file.
        revision: commit on the hub, of a single file that of its configuration; None for a folder.
        weights: hash of all that it is loaded from (of a hub model with nothing beside it, its commit).
        extras: what it is loaded with beside its path.
    """

    model_config = ConfigDict(frozen=True)

    family: str
    path: str
    revision: str | None
    weights: str
    extras: Extras = Extras()

    @property
    def described_in(self) -> str:
        """Folder or hub id of its index, its configurations, tokenizers and scheduler."""
        return self.extras.config if self.extras.parts else self.path


class ResolvedModel(BaseModel):
    """A model of the sweep, pinned.

    Attributes:
        id: its name in the results.
        family: key of its family.
        path: folder, hub id, or checkpoint in one file.
        revision: commit on the hub, of a single file that of its configuration; None for a folder.
        weights: hash of all that it is loaded from (of a hub model with nothing beside it, its commit).
        extras: what it is loaded with beside its path.
        dtype: of weights and activations.
        engine: how it computes.
        guidance_scale: where it is not the sweep's.
        super_resolution: its second stage, if it has one.
        donor: model whose K and V its swapped sites read their own prompt through; None for donor prompts.
        site_names: addresses of its sites in execution order.
        native_side: side of an image in pixels where the sweep does not say; an upper bound.
        seconds_per_image: expected cost of an image of 50 steps.
        worker: what a worker needs.
        scheduler: class of its own scheduler; empty where nobody has looked.
        profile: what calling it has told, where its class has no family; None elsewhere.
        encoder_layers: self-attentions and MLPs of its text encoders; 0 where nobody asked for them.
        probed_batch: rows a forward pass, where the sweep leaves them to a probe that has been made.
        probed_seconds: cost of an image of all steps in such batches, as that probe measured it.
    """

    model_config = ConfigDict(frozen=True)

    id: str
    family: str
    path: str
    revision: str | None
    weights: str
    extras: Extras = Extras()
    dtype: str
    engine: Engine = Engine()
    guidance_scale: float | None = None
    super_resolution: ResolvedSuperResolution | None = None
    donor: ResolvedDonor | None = None
    site_names: tuple[str, ...]
    native_side: int
    seconds_per_image: float
    worker: WorkerNeeds
    scheduler: str = ""
    profile: Profile | None = None
    encoder_layers: int = 0
    probed_batch: int | None = None
    probed_seconds: float | None = None

    @property
    def described_in(self) -> str:
        """Folder or hub id of its index, its configurations, tokenizers and scheduler."""
        return self.extras.config if self.extras.parts else self.path

    @property
    def facts(self) -> FamilyInfo:
        """Facts of its family; of the default family what calling the model has told."""
        return self.profile.facts if self.profile else families()[self.family]

    @property
    def n_sites(self) -> int:
        """How many sites it has."""
        return len(self.site_names)

    @property
    def weights_id(self) -> str:
        """Hashes of all weights that make its images: with those of a second stage and of a donor.

        Edits are of ``weights`` alone.
        """
        second, donor = self.super_resolution, self.donor
        found = self.weights if second is None else f"{self.weights}+{second.weights}"
        return found if donor is None else f"{found}+donor:{donor.weights}"

    def pixels(self, settings: Generation) -> int:
        """Returns how many pixels an image has, at most."""
        second = self.super_resolution
        larger = max(second.native_side // self.native_side, 1) if second else 1
        return larger**2 * (settings.height or self.native_side) * (settings.width or self.native_side)

    def generation(self, settings: Generation) -> Generation:
        """Returns the sweep's settings as they are for this model."""
        return settings if self.guidance_scale is None else replace(settings, guidance_scale=self.guidance_scale)

    @property
    def editable_sites(self) -> tuple[int, ...]:
        """The sites whose K and V an edit may change."""
        shared = self.facts.shared
        if self.profile is not None:
            return ()
        return tuple(i for i, name in enumerate(self.site_names) if not (shared and name.startswith(shared)))

    def check_sites(self) -> None:
        """Refuses edits at sites where none of them admits one.

        Raises:
            SpecError: text and image share all of them.
        """
        if self.profile is not None:
            raise SpecError(
                f"{self.id} ({self.profile.pipeline}) is served by the default family, which edits no weights; "
                "expected a family for this class of pipelines (how-to: plug-ins)"
            )
        if not self.editable_sites:
            raise SpecError(
                f"every site of {self.id} ({self.family}) has one K and V for text and image, so that no edit of the "
                "text alone exists in it"
            )

    def method_sites(self, editor: str) -> tuple[int, ...]:
        """Returns the sites that a published method edits; none where it edits a text encoder.

        Raises:
            SpecError: the model has no such text encoder, or no site that admits an edit, or none that the method can
                edit.
        """
        facts = self.facts
        if editor_info(editor).place != "text_encoder":
            self.check_sites()
            if refused := evolving_text(editor, f"{self.id} ({self.family})", facts.stream):
                raise SpecError(refused)
            return self.editable_sites
        if not facts.clip_encoders:
            raise SpecError(
                f"{editor} edits the CLIP text encoder that cross-attention reads; {self.id} ({self.family}) reads "
                f"{facts.encoders}"
            )
        return ()


class ResolvedScorer(BaseModel):
    """The scorer, pinned.

    Attributes:
        name: as in the sweep; of a file or folder its own name, wherever it lies.
        source: what a worker loads: the name of a bundled scorer, a folder, or a hub id.
        revision: commit on the hub; None for a folder.
        weights: hash of its weights (of a hub model, its commit).
    """

    model_config = ConfigDict(frozen=True)

    name: str
    source: str
    revision: str | None
    weights: str


class ResolvedJudge(BaseModel):
    """The judge, pinned.

    Attributes:
        id: what it is called in results: with a model, a hash of all that its word depends on stands in it.
        use: key of the plug-in, or a Python file.
        model: folder or hub id of its model; empty where it brings its own.
        revision: commit on the hub; None for a folder.
        weights: hash of its weights; empty where it has none.
        pictures: folder with pictures of the classes; empty where it takes none.
        pictures_hash: hash of these.
        settings: its own settings as the sweep gives them.
        is_scorer: whether its weights are those of the scorer.
        asked: revision as the sweep names it.
    """

    model_config = ConfigDict(frozen=True)

    id: str
    use: str
    model: str = ""
    revision: str | None = None
    weights: str = ""
    pictures: str = ""
    pictures_hash: str = ""
    settings: dict[str, Any] = {}
    is_scorer: bool = False
    asked: str | None = None

    @property
    def choice(self) -> JudgeChoice:
        """The judge as it is loaded."""
        return JudgeChoice(self.use, self.model, self.revision, self.pictures, self.settings)


class ResolvedMetric(BaseModel):
    """A metric of edited pictures, pinned.

    Attributes:
        id: what it is called in results.
        source: what a worker loads: key of the plug-in group, or a Python file.
        sets: whether it compares sets of pictures.
        weights: its weights as they are named; empty where it has none.
        path: folder or hub id of its weights.
        revision: commit on the hub; None for a folder.
        digest: hash of its weights (of a hub model, its commit).
        asked: revision as the sweep names it.
    """

    model_config = ConfigDict(frozen=True)

    id: str
    source: str
    sets: bool
    weights: str
    path: str
    revision: str | None
    digest: str
    asked: str | None = None


class Resolved(BaseModel):
    """A sweep with every name looked up.

    Attributes:
        models: in their order.
        attributes: likewise.
        scorer: what scores.
        judge: what names what edited pictures show; None where the sign of the scorer's margin does.
        metrics: what compares pictures with and without an edit.
        floor: a model that never learned the attributes, if one is given: what attacks on edits are held against.
        code: SHA-256 of every Python file that the sweep names, as it was when it was looked up; what workers run of
            them is the same.
    """

    model_config = ConfigDict(frozen=True)

    models: tuple[ResolvedModel, ...]
    attributes: tuple[Attribute, ...]
    scorer: ResolvedScorer
    judge: ResolvedJudge | None = None
    metrics: tuple[ResolvedMetric, ...] = ()
    floor: ResolvedModel | None = None
    code: dict[str, str] = {}

    @property
    def judge_id(self) -> str | None:
        """What the judge is called in results; None without one."""
        return None if self.judge is None else self.judge.id

    @property
    def metric_ids(self) -> tuple[str, ...]:
        """What its metrics are called in results."""
        return tuple(item.id for item in self.metrics)

    def model(self, model_id: str) -> ResolvedModel:
        """Returns a model by its id.

        Raises:
            SpecError: there is none; tables may name what the sweep file does not.
        """
        for model in self.models:
            if model.id == model_id:
                return model
        raise SpecError(f'the sweep has no model "{model_id}"')

    def attribute(self, key: str) -> Attribute:
        """Returns an attribute by its key.

        Raises:
            SpecError: there is none; see `model`.
        """
        for item in self.attributes:
            if item.key == key:
                return item
        raise SpecError(f'the sweep has no attribute "{key}"')
