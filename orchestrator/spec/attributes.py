"""Attributes as a sweep file writes them out."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, model_validator

from loco_core.attributes import text_pairs
from loco_core.types import Attribute, Mode, PromptRecord, PublishedTexts
from orchestrator.spec.places import KeyOrFile
from orchestrator.spec.rules import Name, Strict, Text, no_repeats, problem, spelled


class RecordSpec(Strict):
    """One source prompt with its donor and the texts that score both; see `loco_core.types.PromptRecord`.

    Raises:
        PydanticCustomError: prompt and donor, or score text and donor text, are the same: nothing could be measured.
    """

    prompt: Text = Field(description="The sentence with the attribute.", examples=["a harbour in thick fog"])
    donor: Text = Field(
        description="The same sentence without the attribute (mode `remove`), or with another in its place (mode "
        "`replace`).",
        examples=["a harbour"],
    )
    score_text: Text = Field(
        description="Text that says the attribute; pictures are compared with it.", examples=["thick fog"]
    )
    donor_text: Text = Field(
        description="Text that says what the donor prompt says in its place: the nearest that lacks the attribute and "
        "nothing else.",
        examples=["clear air"],
    )
    content_text: Text = Field(
        description="Text that says what must stay; its score falls when a picture is damaged.", examples=["a harbour"]
    )
    template_id: str = Field(
        "",
        description="Name of the template that the sentence came from, so that edits can be measured on other "
        "templates. Default: none.",
        examples=["t1"],
    )

    @model_validator(mode="after")
    def _check(self) -> RecordSpec:
        for name, other in (("donor", "prompt"), ("donor_text", "score_text")):
            if _words(getattr(self, name)) == _words(getattr(self, other)):
                message = f"says what {other} says, so that nothing can be measured; expected another text"
                raise problem((name,), message)
        return self


def _words(text: str) -> tuple[str, ...]:
    """The words of a text, without what a reader would not tell apart."""
    return tuple(word.casefold() for part in text.split() if (word := part.strip(".,;:!?")))


class PublishedTextsSpec(Strict):
    """Texts that a published edit is fitted on; see `loco_core.types.PublishedTexts`."""

    keys: Annotated[tuple[Text, ...], Field(min_length=1)] = Field(
        description="Texts whose last token is edited.", examples=[["Van Gogh"]]
    )
    anchors: Annotated[tuple[Text, ...], Field(min_length=1)] = Field(
        description="Texts that the keys are to read as: one for all keys, or one per key.", examples=[["a painting"]]
    )

    @model_validator(mode="after")
    def _check(self) -> PublishedTextsSpec:
        if len(self.anchors) not in (1, len(self.keys)):
            message = f"{len(self.anchors)} anchors for {len(self.keys)} keys; expected one for all, or one a key"
            raise problem(("anchors",), message)
        same = [key for key, anchor in text_pairs(self.keys, self.anchors) if key.split() == anchor.split()]
        if same:
            raise problem(("keys",), f"{same[0]!r} equals its anchor; nothing to edit")
        return self


class AttributeSpec(Strict):
    """An attribute written out in the sweep file."""

    kind: Annotated[str, spelled(r"^[A-Za-z0-9_-]+$", "letters of English, digits, - and _", longest=60)] = Field(
        description="Kind of attribute, in a word of yours or one of the bundled kinds (style, object, fact, ..). "
        "Neighbours and claims about a kind go by it.",
        examples=["style"],
    )
    name: Name = Field(description="Name of the attribute within its kind.", examples=["fog"])
    mode: Mode = Field(
        description="Whether the donor prompts leave the attribute out (`remove`) or put another in its place "
        "(`replace`).",
        examples=["remove"],
    )
    records: Annotated[tuple[RecordSpec, ...], Field(min_length=1)] = Field(
        description="Prompts with their donors and texts, in the order in which `prompts: N` takes them: at least N.",
        examples=[
            [
                {
                    "prompt": "a harbour in thick fog", "donor": "a harbour", "score_text": "thick fog",
                    "donor_text": "clear air", "content_text": "a harbour",
                }
            ]
        ],
    )  # fmt: skip
    siblings: tuple[Text, ...] = Field(
        (),
        description="Texts that say others of its kind in the place of `score_text`, for `margin: siblings`. Default: "
        "none, so that the margin is taken against `donor_text` alone.",
        examples=[["falling snow", "heavy rain"]],
    )
    published: dict[KeyOrFile, PublishedTextsSpec] = Field(
        default_factory=dict,
        description="Texts of edits as published, by editor. Default: none, so that edits are paired only.",
        examples=[{"loco_edit": {"keys": ["Van Gogh"], "anchors": ["a painting"]}}],
    )

    @property
    def label(self) -> str:
        """``kind/name``, as in the results."""
        return f"{self.kind}/{self.name}"

    @property
    def attribute(self) -> Attribute:
        """The attribute as the science knows it."""
        records = tuple(
            PromptRecord(
                **record.model_dump(), siblings=tuple(text for text in self.siblings if text != record.donor_text)
            )
            for record in self.records
        )
        published = tuple(
            PublishedTexts(editor, text_pairs(said.keys, said.anchors)) for editor, said in self.published.items()
        )
        return Attribute(self.kind, self.name, self.mode, records, published)

    @model_validator(mode="after")
    def _check(self) -> AttributeSpec:
        # Claims count prompts: one that is given twice would be evidence twice.
        no_repeats(("siblings",), self.siblings, "text")
        said = {_words(record.score_text) for record in self.records}
        if own := [text for text in self.siblings if _words(text) in said]:
            message = f"{own[0]!r} says what score_text says; expected texts of other attributes of the kind"
            raise problem(("siblings",), message)
        no_repeats(("records",), (" ".join(_words(record.prompt)) for record in self.records), "the prompt")
        return self
