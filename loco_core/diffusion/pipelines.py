"""Classes of pipelines, by the names that folders have of them."""

from __future__ import annotations

from typing import Any

from loco_core import plugins
from loco_core.errors import UnknownPipelineError, did_you_mean


def pipeline_class(name: str, where: str) -> Any:
    """Returns a class of pipelines: of diffusers, or of a package that names it by an entry point.

    Args:
        name: name of the class.
        where: folder or hub id that names it, for messages.

    Raises:
        UnknownPipelineError: neither has it.
    """
    import diffusers

    if name in plugins.keys("pipelines"):
        return plugins.function("pipelines", name, name)
    found = getattr(diffusers, name, None)
    if not (isinstance(found, type) and hasattr(found, "from_pretrained")):
        close = did_you_mean(name, [each for each in dir(diffusers) if each.endswith("Pipeline")])
        raise UnknownPipelineError(
            f'{where} is a "{name}", which no family supports and diffusers does not have{close}'
        )
    return found
