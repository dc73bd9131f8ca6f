"""The science of loco-sweep: interventions, scores, localization; one process, one device, no cluster."""

from loco_core.errors import LocoError
from loco_core.types import Attribute, Generation, Intervention, PromptRecord, Row, Site, Window

__all__ = ["Attribute", "Generation", "Intervention", "LocoError", "PromptRecord", "Row", "Site", "Window"]
