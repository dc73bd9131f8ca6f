"""What tokenizers say of prompts: which positions hold words. One function a kind of tokenizer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


def clip_tokens(tokenizer: Any, prompts: list[str]) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns ids and words of prompts as CLIP reads them.

    The start is no word, but it sits at the first position of every sentence and counts as one.

    Args:
        tokenizer: a CLIP tokenizer.
        prompts: the prompts.

    Returns:
        ``(prompts, tokens)`` int64 ids, and ``(prompts, tokens)`` bool: up to the last word.
    """
    import torch

    length = tokenizer.model_max_length
    ids = tokenizer(prompts, padding="max_length", max_length=length, truncation=True, return_tensors="pt").input_ids
    ends = torch.tensor([min(len(tokenizer(text).input_ids) - 1, length) for text in prompts])
    return ids, torch.arange(length) < ends[:, None]


def t5_tokens(tokenizer: Any, prompts: list[str], length: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns ids and words of prompts as T5 reads them: words from the first position on, one end, padding.

    Args:
        tokenizer: a T5 tokenizer.
        prompts: the prompts, preprocessed as the pipeline does.
        length: tokens a prompt is padded to.

    Returns:
        ``(prompts, tokens)`` int64 ids, and ``(prompts, tokens)`` bool: up to the last word.
    """
    import torch

    read = tokenizer(
        prompts, padding="max_length", max_length=length, truncation=True, add_special_tokens=True, return_tensors="pt"
    )
    ends = (read.attention_mask * (read.input_ids != tokenizer.eos_token_id)).sum(1)
    return read.input_ids, torch.arange(length) < ends[:, None]
