"""A training step as one CUDA graph: a small network is bound by the launching of its kernels, not by their work."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

# Before a capture: libraries set themselves up in their first calls.
WARMUP = 3


class Replayed:
    """Computes a loss and its gradients; on a GPU by replaying what was captured at the first call.

    Where nothing can be captured the loss is computed as on a CPU, and its gradients are left to the caller.
    """

    def __init__(
        self, loss_of: Callable[..., torch.Tensor], parameters: Sequence[torch.nn.Parameter], *, enabled: bool = True
    ) -> None:
        """Captures nothing yet.

        Args:
            loss_of: the loss of a batch; its inputs have the same shapes at every call.
            parameters: parameters that are trained.
            enabled: whether anything is to be captured.
        """
        self._loss_of, self._parameters = loss_of, parameters
        self._inputs: tuple[torch.Tensor, ...] | None = None
        self._graph: torch.cuda.CUDAGraph | None = None
        self._loss = torch.empty(0)
        self._tried = not enabled

    def __call__(self, *inputs: torch.Tensor) -> torch.Tensor:
        """Returns the loss; without a graph where the gradients are in place.

        Args:
            inputs: inputs of the loss, on the device of the network or on the CPU.
        """
        device = self._parameters[0].device
        if device.type != "cuda":
            return self._loss_of(*inputs)
        if self._inputs is None:
            self._inputs = tuple(value.to(device) for value in inputs)
        for static, value in zip(self._inputs, inputs, strict=True):
            static.copy_(value, non_blocking=True)
        if not self._tried:
            self._tried = True
            try:
                self._capture(self._inputs)
            except RuntimeError as error:
                self._graph = None
                self._forget()
                torch.cuda.synchronize()
                print(f"no CUDA graph, steps are launched kernel by kernel: {error}", flush=True)
        if self._graph is None:
            return self._loss_of(*self._inputs)
        self._graph.replay()
        return self._loss

    def _capture(self, inputs: tuple[torch.Tensor, ...]) -> None:
        side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(WARMUP):
                self._forget()
                self._loss_of(*inputs).backward()  # type: ignore[no-untyped-call]
        torch.cuda.current_stream().wait_stream(side)
        # The graph allocates the gradients, and every replay writes them anew.
        self._forget()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            loss = self._loss_of(*inputs)
            loss.backward()  # type: ignore[no-untyped-call]
        self._graph, self._loss = graph, loss.detach()

    def _forget(self) -> None:
        for parameter in self._parameters:
            parameter.grad = None
