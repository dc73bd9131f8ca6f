"""What a sweep is: the names of ``sweep.yaml``, how it is read, and what may change between two runs of it."""

from orchestrator.spec.attributes import AttributeSpec
from orchestrator.spec.cluster import ClusterSpec
from orchestrator.spec.compatible import check_compatible
from orchestrator.spec.controls import ControlsSpec
from orchestrator.spec.edit import EditSpec, EvaluateSpec
from orchestrator.spec.model import EngineSpec, ModelSpec, SuperResolutionSpec, WorkerNeeds
from orchestrator.spec.sweep import GenerationSpec, InterventionSpec, SweepSpec, WindowsSpec
from orchestrator.spec.yaml_file import Source, load_sweep, place

__all__ = [
    "AttributeSpec",
    "ClusterSpec",
    "ControlsSpec",
    "EditSpec",
    "EngineSpec",
    "EvaluateSpec",
    "GenerationSpec",
    "InterventionSpec",
    "ModelSpec",
    "Source",
    "SuperResolutionSpec",
    "SweepSpec",
    "WindowsSpec",
    "WorkerNeeds",
    "check_compatible",
    "load_sweep",
    "place",
]
