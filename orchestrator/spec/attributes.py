"""Attributes as a sweep file writes them out."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, StringConstraints, model_validator

from loco_core.attributes import text_pairs
from loco_core.types import Attribute, Mode, PromptRecord, PublishedTexts
from orchestrator.spec.places import KeyOrFile
from orchestrator.spec.rules import Name, Strict, Text, no_repeats, problem


class RecordSpec(Strict):
    """One source prompt with its donor and the texts that score both; see `loco_core.types.PromptRecord`.

    Raises:
        PydanticCustomError: prompt and donor, or score text and donor text, are the same: nothing could be measured.
    """

    prompt: Text
    donor: Text
    score_text: Text
    donor_text: Text
    content_text: Text
    template_id: str = ""

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
    """Texts that a published edit is fitted on; see `loco_core.types.PublishedTexts`.

    Attributes:
        keys: texts whose last token is edited.
        anchors: what they are to read as: one for all keys, or one a key.
    """

    keys: Annotated[tuple[Text, ...], Field(min_length=1)]
    anchors: Annotated[tuple[Text, ...], Field(min_length=1)]

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
    """An attribute written out in the sweep file.

    Attributes:
        kind: style, object, fact, ...
        name: of the attribute within its kind.
        mode: whether the donor drops the attribute or replaces it.
        records: prompts, in the order in which ``prompts: N`` takes them.
        published: texts of published edits, by editor.
    """

    kind: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]+$", max_length=60)]
    name: Name
    mode: Mode
    records: Annotated[tuple[RecordSpec, ...], Field(min_length=1)]
    published: dict[KeyOrFile, PublishedTextsSpec] = Field(default_factory=dict)

    @property
    def label(self) -> str:
        """``kind/name``, as in the results."""
        return f"{self.kind}/{self.name}"

    @property
    def attribute(self) -> Attribute:
        """The attribute as the science knows it."""
        records = tuple(PromptRecord(**record.model_dump()) for record in self.records)
        published = tuple(
            PublishedTexts(editor, text_pairs(said.keys, said.anchors)) for editor, said in self.published.items()
        )
        return Attribute(self.kind, self.name, self.mode, records, published)

    @model_validator(mode="after")
    def _check(self) -> AttributeSpec:
        # Claims count prompts: one that is given twice would be evidence twice.
        no_repeats(("records",), (" ".join(_words(record.prompt)) for record in self.records), "the prompt")
        return self
