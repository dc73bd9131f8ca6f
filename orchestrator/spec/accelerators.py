"""The names of GPUs: as people write them, and as Ray labels nodes."""

from __future__ import annotations

import difflib
import re
from typing import Annotated

from pydantic import AfterValidator
from pydantic_core import PydanticCustomError

ACCELERATORS = (
    "K80", "P4", "P100", "V100", "T4", "L4", "L40", "L40S", "A10", "A10G", "A16", "A30", "A40", "A100", "A100-40G",
    "A100-80G", "A800", "H20", "H100", "H200", "H800", "GH200", "B200", "B300", "GB200", "GB300", "RTX-PRO-6000",
    "RTX-A4000", "RTX-A5000", "RTX-A6000", "RTX-6000", "RTX-8000", "GeForce-RTX-2080-Ti", "GeForce-RTX-3080",
    "GeForce-RTX-3090", "GeForce-RTX-4080", "GeForce-RTX-4090", "GeForce-RTX-5080", "GeForce-RTX-5090",
)  # fmt: skip
"""Ray's names of NVIDIA GPUs: those of ``ray.util.accelerators``, and what it makes of the names of others."""

ACCELERATOR_LABEL = "ray.io/accelerator-type"
"""The label that says it of a node."""


def _letters(name: str) -> str:
    """Returns what is equal however a name is written: A100-80GB is A100-80G, RTX 4090 is GeForce-RTX-4090."""
    found = re.sub(r"[^a-z0-9]", "", name.lower())
    return re.sub(r"^(nvidia)?(tesla|geforce)?|(?<=80g)b$|(?<=40g)b$", "", found)


_BY_LETTERS = {_letters(name): name for name in ACCELERATORS} | {"a6000": "RTX-A6000", "a5000": "RTX-A5000"}


def _unknown(name: str, otherwise: str) -> PydanticCustomError:
    near = difflib.get_close_matches(_letters(name), _BY_LETTERS, 1, 0.0)
    return PydanticCustomError(
        "rule",
        f"{{name}} is no GPU that is known here; expected such as {{near}}, or {otherwise}",
        {"name": repr(name), "near": _BY_LETTERS[near[0]]},
    )


def _spelled(name: str) -> str:
    found = _BY_LETTERS.get(_letters(name))
    if found is None:
        raise _unknown(name, "the label of its nodes in label_selector")
    return found


def priced(name: str) -> str:
    """Returns a word of the name of a GPU, or of a CPU, as it was written; refuses one that no device is called."""
    words = [word for word in re.split(r"[^a-z0-9]+", name.lower()) if word]
    if not {_letters(name), *words} & {"cpu", *_BY_LETTERS}:
        raise _unknown(name, "cpu, or one price for all")
    return name


def memory_of(name: str) -> int | None:
    """Returns the most bytes that a type of GPU has, where its name says it, as that of A100-40G."""
    found = re.search(r"-(\d+)G$", name)
    return None if found is None else int(found[1]) * 2**30


Accelerator = Annotated[str, AfterValidator(_spelled)]
"""The type of a GPU, in Ray's spelling."""


def is_called(gpu: str, name: str) -> bool:
    """Tells whether a GPU is of a type: NVIDIA A100-SXM4-80GB is an A100, an A100-80G and an A100-80GB.

    Args:
        gpu: what it calls itself.
        name: name of the type, in Ray's spelling or in words.
    """
    return words_of(name) <= words_of(gpu)


def words_of(name: str) -> frozenset[str]:
    """Returns the words of the name of a GPU, in capitals; 80GB is 80G."""
    return frozenset(re.sub(r"(?<=\d)GB$", "G", word) for word in re.findall(r"[A-Z0-9.]+", name.upper()))
