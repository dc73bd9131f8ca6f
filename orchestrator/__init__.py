"""Sweeps over many models, attributes and windows: planned, run on Ray or in this process, resumed, published.

What is public is imported when it is first used: ``import orchestrator`` takes milliseconds.

Example:
    >>> import orchestrator
    >>> sweep = orchestrator.Sweep(name="first", models=["toy"], attributes=["style/lumio"], prompts=2, seeds=2,
    ...     generation={"steps": 2, "guidance_scale": 3.0}, scorer="toy-clip")
    >>> sweep.spec.models[0].id
    'toy'
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from orchestrator.face.results import Results
    from orchestrator.face.sweep import Sweep, run

__version__ = "0.1.0"
__all__ = ["Results", "Sweep", "run"]

_LATER = {
    "Results": "orchestrator.face.results",
    "Sweep": "orchestrator.face.sweep",
    "run": "orchestrator.face.sweep",
}
"""Where a name is imported from when it is first used."""


def __getattr__(name: str) -> Any:
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_LATER[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_LATER])
