"""Places: the folders, files and addresses that a file or a command names, as they are from anywhere.

``~`` is the home folder, a relative path goes from the folder of the file that names it (on the command line from the
working directory), and an address (``s3://...``) stays as it is. ``${env:NAME}`` is the value of an environment
variable. That is said once a place, when its file is read: what is stored or handed on is absolute, and expanded.
"""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, ValidationInfo

from loco_core.diffusion.single_files import is_single_file
from loco_core.errors import SpecError
from loco_core.scoring.base import named_scorers
from orchestrator.spec.rules import PLAIN, expanded, problem, spelled

LONGEST_NAME, LONGEST_PATH = 255, 4000
"""Bytes that file systems take; a path grows by what is written below it."""
STORAGES = {"s3": "", "gs": "gcs", "abfs": "azure", "az": "azure"}
"""Schemes of addresses that results can be kept at, and the extra of this project that brings the client."""
_ONE_SLASH = re.compile(rf"({'|'.join([*STORAGES, 'https?', 'file'])}):/*(.*)", re.DOTALL)
_FOLDER = "folder"
_EXPLICIT = ("/", "~", "./", "../")


def anchored(text: str, folder: str | Path = ".") -> str:
    """Returns a place as it is from anywhere.

    Args:
        text: text as somebody wrote it.
        folder: folder that relative paths go from: that of the file that names it, or the working directory.

    Raises:
        SpecError: nothing can lie there.
    """
    if "://" in text:
        return text
    _check_letters(text)
    if (address := _ONE_SLASH.fullmatch(text)) is not None:
        meant = f"the path /{address[2]}" if address[1] == "file" else f"{address[1]}://{address[2]}"
        raise SpecError(f"{text!r} is no address; expected {meant}")
    try:
        written, base = Path(text).expanduser(), Path(folder).absolute()
    except RuntimeError:
        raise SpecError(f"{text!r}: nobody here has this home folder; expected ~ or a path") from None
    path = _resolved(_resolved(base, base) / written, written)
    names = [len(os.fsencode(part)) for part in Path(path).parts]
    if max(names) > LONGEST_NAME or sum(names) + len(names) > LONGEST_PATH:
        raise SpecError(f"{text[:20]!r}... is too long for a path; expected names of at most {LONGEST_NAME} bytes")
    return str(path)


def _check_letters(text: str) -> None:
    if any(unicodedata.category(letter) in ("Cc", "Cs", "Zl", "Zp") for letter in text):
        raise SpecError(f"{text!r} holds a control character; expected a name or a path")


def _resolved(path: Path, written: Path) -> Path:
    """Returns a path without what is above others: of a link that is not the folder before it in the path."""
    return Path(os.path.realpath(path)) if ".." in written.parts else path


def hub_or_folder(text: str, folder: str | Path = ".") -> str:
    """Returns where a model lies: ``owner/name`` is on the hub unless there is such a folder; all else is a place.

    A name such as ``folder/model.safetensors`` is a file, whether it is there or not.
    """
    may_be = text.count("/") == 1 and not text.startswith(_EXPLICIT) and not is_single_file(text)
    if may_be and not os.path.isdir(anchored(text, folder)):
        return text
    return anchored(text, folder)


def key_or_file(text: str, folder: str | Path = ".") -> str:
    """Returns what a localizer, an editor or a judge is: a file of Python, or a key of the plug-in group."""
    _check_letters(text)
    return anchored(text, folder) if text.endswith(".py") else text


def scorer(text: str, folder: str | Path = ".") -> str:
    """Returns what a scorer is: a file of Python, a key or name that is known, or a model on the hub or in a folder."""
    if text.endswith(".py"):
        return anchored(text, folder)
    named = text in named_scorers()
    # A word alone is a name, known or misspelled, unless there is such a folder.
    word = "/" not in text and text not in (".", "..", "~") and not os.path.isdir(anchored(text, folder))
    return text if named or word else hub_or_folder(text, folder)


def named_model(text: str, folder: str | Path = ".") -> str:
    """Returns what a model is: a word alone is a name, known or misspelled, unless there is such a folder."""
    word = "/" not in text and text not in (".", "..", "~") and not os.path.isdir(anchored(text, folder))
    return text if word and not is_single_file(text) else hub_or_folder(text, folder)


def name_of(text: str) -> str:
    """Returns what something is called in identities: its own name, wherever it lies."""
    return Path(text).name if os.path.isabs(text) else text


def beside(file: Path) -> dict[str, str]:
    """Returns the context in which a file is validated, so that its places go from its folder."""
    return {_FOLDER: str(file.absolute().parent)}


def of_file(find: Callable[[Any, str], Any]) -> AfterValidator:
    """Returns the validator of a value that names places.

    Args:
        find: takes the value and the folder that its places go from.
    """

    def validate(value: Any, info: ValidationInfo) -> Any:
        # Without a file all places are absolute already, or as an older version stored them.
        if not info.context:
            return value
        try:
            return find(value, info.context[_FOLDER])
        except SpecError as error:
            raise problem((), str(error)) from None

    return AfterValidator(validate)


_Written = Annotated[str, spelled(r"^[^\x00-\x1f\x7f]+$", PLAIN, shortest=1, longest=2000), AfterValidator(expanded)]


def _kept(text: str) -> str:
    scheme, address, _ = text.partition("://")
    if address and scheme not in STORAGES:
        raise problem((), expected_storage(scheme))
    return text


def expected_storage(scheme: str) -> str:
    """Says that results cannot be kept at addresses with a scheme."""
    known = ", ".join(f"{name}://bucket/folder" for name in STORAGES if name != "az")
    return f"{scheme}:// is no storage that results can be kept in; expected a folder, or one of {known}"


Place = Annotated[_Written, of_file(anchored)]
ResultsPlace = Annotated[Place, AfterValidator(_kept)]
ModelPlace = Annotated[_Written, of_file(hub_or_folder)]
NamedModel = Annotated[_Written, of_file(named_model)]
ScorerPlace = Annotated[_Written, of_file(scorer)]
KeyOrFile = Annotated[str, of_file(key_or_file)]
