"""What machines have, and what models need of them."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from orchestrator.spec.accelerators import is_called

GpuKind = tuple[str | None, int | None]
"""Name and bytes of a GPU."""


@dataclass(frozen=True)
class Node:
    """What a worker reports of the machine that it runs on.

    Attributes:
        name: name of the machine; workers of a backend that names none are taken to share one.
        gpu: what its GPUs call themselves; None without GPUs.
        gpu_memory: bytes of each of its GPUs, of the smallest one where they differ.
        capability: CUDA compute capability of its GPUs.
        fault: why a worker that was given GPUs of it cannot use them; empty where it can.
    """

    name: str = ""
    gpu: str | None = None
    gpu_memory: int | None = None
    capability: tuple[int, int] | None = None
    fault: str = ""

    @property
    def kind(self) -> GpuKind:
        """What is equal on all machines that hold the same models."""
        return self.gpu, self.gpu_memory

    def __str__(self) -> str:
        """Names its GPUs in a message."""
        if self.fault:
            return f"{self.name}, where {self.fault}"
        if self.gpu is None:
            return "a machine without GPU"
        return self.gpu if self.gpu_memory is None else f"{self.gpu} of {self.gpu_memory / 2**30:.0f} GiB"


@dataclass(frozen=True)
class WorkerNeeds:
    """What a worker of a model needs of its machine.

    Attributes:
        gpus: whole GPUs of one machine; 0 runs on the CPU, None on one GPU where there is any.
        labels: labels that the machine must carry, as (key, value) pairs.
        accelerators: names of the GPUs that will do; any will where there is none.
        min_gpu_memory: least bytes of each GPU.
    """

    gpus: int | None = None
    labels: tuple[tuple[str, str], ...] = ()
    accelerators: tuple[str, ...] = ()
    min_gpu_memory: int | None = None

    @property
    def request(self) -> WorkerNeeds:
        """What a worker can be asked for with: a cluster does not know the memory of its GPUs."""
        return replace(self, min_gpu_memory=None)

    def __str__(self) -> str:
        """Names the GPU in a message."""
        size = "" if self.min_gpu_memory is None else f" of {self.min_gpu_memory / 2**30:.0f} GiB or more"
        return f"{' or '.join(self.accelerators) or 'a GPU'}{size}"

    def fit(self, node: Node) -> bool:
        """Tells whether the GPUs of a machine will do; there, without any, the model runs on the CPU."""
        if node.fault or node.gpu is None:
            return not node.fault
        named = not self.accelerators or any(is_called(node.gpu, name) for name in self.accelerators)
        return named and (node.gpu_memory or math.inf) >= (self.min_gpu_memory or 0)

    def met_by(self, asked: WorkerNeeds, node: Node | None) -> bool:
        """Tells whether a worker will do.

        Args:
            asked: what it was asked for with.
            node: where it runs; None before that is known.
        """
        if self.gpus != asked.gpus or not set(self.labels) <= set(asked.labels):
            return False
        if node is not None and (node.gpu is not None or node.fault):
            return self.fit(node)
        return not self.accelerators or (bool(asked.accelerators) and {*asked.accelerators} <= {*self.accelerators})
