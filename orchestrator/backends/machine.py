"""What there is on the machine of a worker, as torch sees it in the worker's process."""

from __future__ import annotations

import logging
from pathlib import Path

from orchestrator.scheduler.needs import Node

logger = logging.getLogger(__name__)

DEVICES = (Path("/dev/nvidiactl"), Path("/dev/kfd"))
"""What the drivers of GPUs make. Ray may be told of GPUs that are none; a worker that is given one runs on the CPU."""


def describe(name: str, gpus: int | None) -> Node:
    """Returns what there is on the machine of this process.

    Args:
        name: name of the machine.
        gpus: GPUs that this process has; None is not known.
    """
    if gpus == 0:
        return Node(name)
    import torch

    try:
        if not torch.cuda.is_available():
            return Node(name, fault=_fault(gpus))
        found = [torch.cuda.get_device_properties(number) for number in range(torch.cuda.device_count())]
    except RuntimeError:
        logger.exception("the GPUs of %s do not answer", name)
        return Node(name, fault=_fault(gpus))
    smallest = min(found, key=lambda device: device.total_memory)
    return Node(name, smallest.name, smallest.total_memory, (smallest.major, smallest.minor))


def _fault(gpus: int | None) -> str:
    """Says why torch sees none of the GPUs that a worker was given; empty where there are none."""
    import torch

    if not gpus or not any(device.exists() for device in DEVICES):
        return ""
    if torch.version.cuda is None and torch.version.hip is None:
        return f"torch {torch.__version__} is made for CPUs"
    return f"torch {torch.__version__} sees no GPU: its driver may be too old"
