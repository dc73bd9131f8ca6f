"""The frozen nouns that cross processes. Light to import: no torch, no pandas."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, Literal

Part = Literal["kv", "k", "v"]
Tokens = Literal["all", "words", "padding"]
GuidanceHalf = Literal["conditional", "unconditional", "both"]
Pooled = Literal["prompt", "donor"]
Source = Literal["run", "own", "weights"]
Control = Literal["window", "clean", "identity", "all_sites", "donor", "complement", "random"]
Mode = Literal["remove", "replace"]
Margin = Literal["donor", "siblings"]
Status = Literal["ok", "invalid"]
Attention = Literal["default", "math", "efficient", "flash", "cudnn"]
Offload = Literal["none", "model", "sequential"]
DeviceMap = Literal["none", "balanced"]


@dataclass(frozen=True)
class Site:
    """One place where text enters the denoiser: a pair of K and V projections.

    Attributes:
        index: position in execution order, from 0.
        name: readable address, e.g. ``up_blocks.1.attentions.2``.
        key_path: module path of the K projection inside the denoiser.
        value_path: module path of the V projection.
        width: width of K and V.
        text_only: whether the projections serve the text alone; those of FLUX's single blocks serve the image too, and
            admit no edit.
        key_columns: first column of the projection's output that is K, and the first behind it; None where all are.
            One projection may give K and V, or queries too.
        value_columns: likewise of V.
    """

    index: int
    name: str
    key_path: str
    value_path: str
    width: int
    text_only: bool = True
    key_columns: tuple[int, int] | None = None
    value_columns: tuple[int, int] | None = None

    @property
    def attention_path(self) -> str:
        """Module path of the attention that the projections belong to."""
        return self.key_path.rpartition(".")[0]


@dataclass(frozen=True, order=True)
class Window:
    """The sites ``start .. start + size - 1`` in execution order.

    Attributes:
        start: first site, from 0.
        size: number of sites.
    """

    start: int
    size: int

    @property
    def sites(self) -> tuple[int, ...]:
        """The sites of the window."""
        return tuple(range(self.start, self.start + self.size))

    def overlaps(self, other: Window) -> bool:
        """Tells whether two windows share a site."""
        return self.start < other.start + other.size and other.start < self.start + self.size


@dataclass(frozen=True)
class PromptRecord:
    """One source prompt, its own donor, and the texts that score the pictures of both.

    Attributes:
        prompt: the sentence with the attribute.
        donor: the same sentence without it (mode ``remove``) or with its replacement (mode ``replace``).
        score_text: says the attribute; compared with the picture.
        donor_text: says what the donor says in its place.
        content_text: says what must stay; its score falls when a picture is damaged.
        template_id: template that the sentence came from, for splits by template.
        siblings: texts that say others of the kind in the place of ``score_text``; the margin is taken against the
            largest score of theirs and ``donor_text``'s, without any against that of ``donor_text``.
    """

    prompt: str
    donor: str
    score_text: str
    donor_text: str
    content_text: str
    template_id: str = ""
    siblings: tuple[str, ...] = ()

    @property
    def against(self) -> tuple[str, ...]:
        """The texts that the margin is taken against; the donor's first."""
        return self.donor_text, *self.siblings


@dataclass(frozen=True)
class Intervention:
    """Which sites read the donor instead of the prompt, and which part of what they read.

    The paper's own setting is the default: K and V, all steps, all tokens, the conditional half of guidance.

    Attributes:
        sites: sites that read the donor, in execution order.
        part: K and V, or one of them.
        step_start: first denoising step (from 0) at which they do.
        step_end: first step at which they no longer do; None is the last step inclusive.
        tokens: token positions that come from the donor: ``all``, ``words`` (from the first position up to the last
            word of either sentence) or ``padding`` (all after that).
        guidance_half: half of classifier-free guidance that reads the donor.
        pooled: sentence that the pooled text comes from, at all steps: the vector that some families feed into the
            denoiser beside cross-attention.
        source: where text and image attend to each other, what K and V of the donor's text come from: ``run``, a
            picture that the donor draws from the same noise (activation patching); ``own``, the row's own picture,
            with the donor's text in place of its own at that step. Elsewhere both are the same. ``weights``: the row's
            own text, in both halves as they are, through the projections of another model, the model's donor.
    """

    sites: tuple[int, ...] = ()
    part: Part = "kv"
    step_start: int = 0
    step_end: int | None = None
    tokens: Tokens = "all"
    guidance_half: GuidanceHalf = "conditional"
    pooled: Pooled = "prompt"
    source: Source = "run"


@dataclass(frozen=True)
class Generation:
    """Settings of a generation that change the pixels, the same for all rows of a batch.

    Attributes:
        steps: denoising steps.
        guidance_scale: scale of classifier-free guidance.
        height: height of an image in pixels; None is the model's own.
        width: width of an image in pixels; None is the model's own.
        scheduler: class name of a diffusers scheduler; None is the model's own.
    """

    steps: int = 50
    guidance_scale: float = 7.5
    height: int | None = None
    width: int | None = None
    scheduler: str | None = None


@dataclass(frozen=True)
class Lora:
    """Weights that are added to a model's own: low-rank factors of changes, from a safetensors file.

    Attributes:
        path: file in the naming of diffusers, peft or kohya.
        scale: factor of the change; 0 leaves the model as it is.
    """

    path: str
    scale: float = 1.0


@dataclass(frozen=True)
class TextualInversion:
    """A word that a model learns: embeddings from a safetensors file.

    Attributes:
        path: file with one or more embedding vectors for each text encoder that is to know the word.
        token: the word as prompts write it, e.g. ``<cat>``.
    """

    path: str
    token: str


@dataclass(frozen=True)
class Extras:
    """What a model is loaded with beside its folder, hub id or file.

    Attributes:
        config: folder or hub id of a pipeline that lends a single file what that lacks: configurations, tokenizers,
            scheduler, and the components that it does not hold; empty for a folder or hub id.
        variant: variant of the weights, e.g. ``fp16``; None takes plain ones where there are any.
        loras: changes of the weights, fused in this order.
        textual_inversions: words that it learns.
        parts: components whose weights a single file holds; what else there is `config` lends.
    """

    config: str = ""
    variant: str | None = None
    loras: tuple[Lora, ...] = ()
    textual_inversions: tuple[TextualInversion, ...] = ()
    parts: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Engine:
    """How a model computes: memory and speed, not what is computed.

    All but ``offload`` and ``device_map``, which only say where weights wait, change the last bits of an image.

    Attributes:
        attention: the kernel that torch's scaled dot-product attention prefers, where it serves; ``default`` leaves
            the choice to torch.
        channels_last: memory layout of the denoiser's convolutions; None is what was measured faster where it runs.
        compile: compiles the modules of the denoiser that no intervention reaches with ``torch.compile``.
        vae_slicing: decodes one picture at a time; None does so everywhere but on the CPU.
        vae_tiling: decodes large pictures in overlapping tiles, whose blended seams change pixels.
        offload: parts that wait in the main memory while they are not used: components (``model``) or layers
            (``sequential``).
        device_map: ``balanced`` spreads the components of the pipeline over the GPUs of the worker.
    """

    attention: Attention = "default"
    channels_last: bool | None = None
    compile: bool = False
    vae_slicing: bool | None = None
    vae_tiling: bool = False
    offload: Offload = "none"
    device_map: DeviceMap = "none"

    @property
    def bits(self) -> dict[str, Any]:
        """What was set and changes bits, by name; empty where nothing was."""
        return {
            field.name: value
            for field in fields(self)
            if (value := getattr(self, field.name)) != field.default and field.name not in ("offload", "device_map")
        }


@dataclass(frozen=True)
class Row:
    """One row of a batch: one image to be generated.

    Attributes:
        prompt: text that all sites read where no intervention says otherwise.
        donor: text that the sites of the intervention read.
        seed: seed of the initial noise, drawn on the CPU.
        intervention: intervention on the sites; one without sites is the clean image.
    """

    prompt: str
    donor: str
    seed: int
    intervention: Intervention = Intervention()


@dataclass(frozen=True)
class PublishedTexts:
    """What an editor is fitted on where it is to be as published: texts of its authors' kind, without any contents.

    Attributes:
        editor: key of the editor.
        pairs: key texts, each with its anchor: the text that it is to read as.
    """

    editor: str
    pairs: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Attribute:
    """What is looked for in a model: a style, an object, a fact ...

    Attributes:
        kind: kind of knowledge that it is an example of.
        name: its name within the kind.
        mode: whether the donor prompts leave it out or put something in its place.
        records: its source prompts, in the order in which a sweep takes them.
        published: the texts of published edits, one entry per editor; editors without one are fitted on records alone.
    """

    kind: str
    name: str
    mode: Mode
    records: tuple[PromptRecord, ...]
    published: tuple[PublishedTexts, ...] = ()

    @property
    def key(self) -> str:
        """The attribute as it is written in a sweep: ``kind/name``."""
        return f"{self.kind}/{self.name}"

    def published_records(self, editor: str) -> tuple[PromptRecord, ...]:
        """Returns an editor's published key texts as prompts with their anchors as donors; none where none are known.

        They are fitted on and never scored.
        """
        pairs = next((item.pairs for item in self.published if item.editor == editor), ())
        return tuple(PromptRecord(key, anchor, "", "", "") for key, anchor in pairs)
