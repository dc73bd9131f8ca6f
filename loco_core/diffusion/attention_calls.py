"""What attentions compute with: queries, keys and values behind norms and rotary embeddings, seen or changed.

Attentions of diffusers end in torch's scaled dot-product attention, whatever their classes do before it; projections
are too early, as norms and positions come behind them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from loco_core.diffusion.engine import replaced_forwards

attend = torch.nn.functional.scaled_dot_product_attention


@dataclass(frozen=True)
class AttentionCall:
    """Arguments of one call of torch's scaled dot-product attention.

    Attributes:
        query: ``(rows, heads, queries, width)``.
        key: ``(rows, heads, tokens, width)``; fewer heads where ``enable_gqa`` says that some share theirs.
        value: likewise.
        attn_mask: broadcasts to ``(rows, heads, queries, tokens)``: bool, true where a query may look, or numbers that
            are added to the scores; None where it may look everywhere.
        dropout_p: share of the weights that is dropped.
        is_causal: whether a query may look at no later token.
        scale: what scores are multiplied by; None is one over the root of the width.
        enable_gqa: whether heads share keys and values.
    """

    query: torch.Tensor
    key: torch.Tensor
    value: torch.Tensor
    attn_mask: torch.Tensor | None = None
    dropout_p: float = 0.0
    is_causal: bool = False
    scale: float | None = None
    enable_gqa: bool = False


Seen = Callable[[str, AttentionCall], AttentionCall]


class _Intercepted(TorchFunctionMode):
    """Hands every attention that torch is asked for to a function, and computes what that returns."""

    def __init__(self, change: Callable[[AttentionCall], AttentionCall]) -> None:
        super().__init__()
        self._change = change

    def __torch_function__(self, function: Any, _: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function is not attend:
            return function(*args, **(kwargs or {}))
        call = self._change(AttentionCall(*args, **(kwargs or {})))
        return function(**{field.name: getattr(call, field.name) for field in fields(call)})


@contextmanager
def attention_calls(denoiser: torch.nn.Module, paths: Sequence[str], seen: Seen) -> Iterator[None]:
    """Hands out what attentions compute with, while a ``with`` block runs.

    An attention may make several calls a forward pass: of parts of its queries, or of another image beside the text.

    Args:
        denoiser: a UNet or transformer of diffusers that computes with torch's kernels, as it does unless told
            otherwise.
        paths: module paths of attentions inside it.
        seen: called with the path and the call before it is computed; returns the call that is computed, the same one
            where nothing changes. Where blocks are nested, the inner one is called last, and sees what the outer one
            returned.
    """

    def within(path: str, original: Any) -> Any:
        def forward(*args: Any, **kwargs: Any) -> Any:
            with _Intercepted(lambda call: seen(path, call)):
                return original(*args, **kwargs)

        return forward

    with replaced_forwards() as replace:
        for path in paths:
            attention = denoiser.get_submodule(path)
            replace(attention, within(path, attention.forward))
        yield
