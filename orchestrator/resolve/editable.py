"""Whether the editors of a sweep can do what it asks of them, as far as attributes and editors tell; without torch."""

from __future__ import annotations

from collections.abc import Sequence

from loco_core import plugins
from loco_core.editing.base import EditSettings, editor_info
from loco_core.editing.splits import splits
from loco_core.errors import SpecError, did_you_mean, located
from loco_core.types import Attribute
from orchestrator.spec import EditSpec, SweepSpec

ONE_POSITION = ("last_subject", "last_position")
"""Sets of tokens that are one position of a prompt."""


def check_editors(spec: SweepSpec, attributes: Sequence[Attribute]) -> None:
    """Refuses editors that are not there, and targets or lambdas that they do not know.

    Args:
        spec: the sweep.
        attributes: its attributes.

    Raises:
        SpecError: there is one; ``loc`` says where in the sweep.
    """
    for i, item in enumerate(attributes):
        for said in item.published:
            with located("attributes", i, "published", said.editor):
                if editor_info(said.editor).published is None:
                    raise SpecError(f"{said.editor} was published with no texts of its own; leave it out")
    if spec.edit is None:
        return
    for i, editor in enumerate(spec.edit.editors):
        with located("edit", "editors", i):
            plugins.function("editors", editor, "edit")
            _check_settings(editor)
            if spec.edit.together and not editor_info(editor).together:
                raise SpecError(f"{editor} edits one attribute at a time; leave it out, or expected no together")
    for editor in spec.edit.method_lambdas:
        with located("edit", "method_lambdas", editor):
            info = editor_info(editor)
            if info.published is None:
                raise SpecError(
                    f"{editor} is no published method with an absolute lambda; its strengths stand in lambdas"
                )
            if info.place is None and "published" not in (spec.edit.targets or ("published",)):
                raise SpecError(
                    f"{editor} has an absolute lambda as published alone, and targets: paired leaves that out; its "
                    "strengths stand in lambdas"
                )
    if "published" in (spec.edit.targets or ()):
        with located("edit", "targets"):
            _check_published(spec.edit, attributes)


def _check_settings(editor: str) -> None:
    """Refuses settings that an editor declares and that no edit, or no sweep, has."""
    for setting in editor_info(editor).settings:
        fields, keys = list(EditSettings.model_fields), list(EditSpec.model_fields)
        for word, name, known in (("setting", setting.name, fields), ("key", setting.option, keys)):
            if name not in known:
                near = did_you_mean(name, known)
                raise SpecError(f"{editor} declares the {word} {name!r}{near}; expected one of {', '.join(known)}")


def check_records(spec: SweepSpec, attributes: Sequence[Attribute]) -> tuple[str, ...]:
    """Tells which attributes of a sweep that edits cannot be edited, as their records cannot be split for it.

    Args:
        spec: the sweep.
        attributes: its attributes.

    Returns:
        why not, a sentence an attribute.

    Raises:
        SpecError: none of them can, or one that is to be edited with others; ``loc`` says where in the sweep it is.
    """
    if spec.edit is None:
        return ()
    refused = list[SpecError]()
    grouped = {
        name: (key, i, j)
        for key in ("together", "sequence")
        for i, group in enumerate(getattr(spec.edit, key))
        for j, name in enumerate(group)
    }
    for i, item in enumerate(attributes):
        try:
            with located("attributes", i):
                _check_splits(spec.edit, item, spec.prompts)
        except SpecError as error:
            if item.key in grouped:
                with located("edit", *grouped[item.key]):
                    raise SpecError(str(error)) from error
            refused.append(error)
    if refused and len(refused) == len(attributes):
        raise refused[0]
    return tuple(str(error) for error in refused)


def _check_splits(wanted: EditSpec, item: Attribute, prompts: int) -> None:
    """Refuses an attribute whose prompts cannot be split, or leave an editor too few positions to fit on."""
    fitted_on = len(splits(item, prompts)["fit"])
    if fitted_on > 1:
        return
    for editor in wanted.editors:
        info = editor_info(editor)
        for setting in info.settings if info.several else ():
            alone = [value for value in getattr(wanted, setting.option) if value in ONE_POSITION]
            if setting.name == "tokens" and alone:
                raise SpecError(
                    f"{item.key}: {info.several}, and there is one prompt to fit on, of which {alone[0]} is one "
                    f"position; expected more prompts, or other {setting.option}"
                )


def _check_published(wanted: EditSpec, attributes: Sequence[Attribute]) -> None:
    """Refuses to edit as published what has no texts for it."""
    editors = [editor for editor in wanted.editors if editor_info(editor).published]
    if not editors:
        raise SpecError(f"{' and '.join(wanted.editors)} was published with no texts of its own; expected no targets")
    for item in attributes:
        for editor in editors:
            if not item.published_records(editor):
                raise SpecError(
                    f"{item.key} has no texts to be edited on by {editor} as published; add published: "
                    f"{{{editor}: {{keys: [..], anchors: [..]}}}} to the attribute, or expected targets: paired"
                )
