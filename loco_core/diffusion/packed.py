"""Texts of lengths of their own in one batch, where text and image are one sequence and no padding belongs to it.

A denoiser counts positions from the text's first token, and the image stands behind its last. Rotary embeddings say of
two tokens only how far they are apart. So texts are aligned at their ends: what is put in front of shorter ones is
hidden from every query, the image stands at one place for all rows, and a token of the text is as far from it as where
the sentence is drawn alone. K and V of a donor's text then stand where those of the row's own stood, whatever their
lengths.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

from loco_core.diffusion.model import PromptEmbeds

if TYPE_CHECKING:
    import torch

    from loco_core.diffusion.attention_calls import AttentionCall

NO_TOKEN = -1
"""Id at a position that holds no token of a sentence."""


def aligned(texts: Sequence[PromptEmbeds]) -> PromptEmbeds:
    """Puts texts of several lengths below each other, aligned at their ends.

    Args:
        texts: of one prompt each, as the pipeline encodes it alone, or of several that are aligned already.

    Returns:
        all of them, with a mask of 0 in front of shorter ones.
    """
    import torch

    longest = max(text.embeds.shape[1] for text in texts)

    def put(value: torch.Tensor, filling: float) -> torch.Tensor:
        missing = longest - value.shape[1]
        return torch.nn.functional.pad(value, (0, 0) * (value.ndim - 2) + (missing, 0), value=filling)

    def there(text: PromptEmbeds) -> torch.Tensor:
        return torch.ones_like(text.words, dtype=torch.long) if text.mask is None else text.mask

    return PromptEmbeds(
        torch.cat([put(text.embeds, 0) for text in texts]),
        torch.cat([put(text.ids, NO_TOKEN) for text in texts]),
        torch.cat([put(text.words, False) for text in texts]),
        mask=torch.cat([put(there(text), 0) for text in texts]),
    )


@contextmanager
def hidden(
    denoiser: torch.nn.Module, visible: Mapping[str, Callable[[], torch.Tensor]], *, last: bool
) -> Iterator[None]:
    """Hides tokens of the text from all queries of attentions, while a ``with`` block runs.

    Args:
        denoiser: the transformer.
        visible: for attentions, by module path: what says ``(rows, tokens)`` which of the text may be looked at now.
        last: whether the image stands in front of the text.
    """
    from loco_core.diffusion.attention_calls import attention_calls

    def shown(path: str, call: AttentionCall) -> AttentionCall:
        import torch

        text = visible[path]().bool()
        image = call.key.shape[2] - text.shape[1]
        keys = torch.nn.functional.pad(text, (image, 0) if last else (0, image), value=True)[:, None, None]
        given = call.attn_mask
        if given is None:
            mask = keys
        elif given.dtype is torch.bool:
            mask = given & keys
        else:
            mask = given.masked_fill(~keys, -torch.inf)
        return replace(call, attn_mask=mask)

    with attention_calls(denoiser, list(visible), shown):
        yield


def refiners(denoiser: torch.nn.Module, prefix: str) -> list[str]:
    """Returns the paths of attentions that refine the text alone, before it meets the image.

    Args:
        denoiser: the transformer.
        prefix: beginning of their paths; empty where there are none.
    """
    named = denoiser.named_modules() if prefix else ()
    return [name for name, module in named if name.startswith(prefix) and hasattr(module, "to_k")]
