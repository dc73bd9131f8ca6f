"""What tokenizers say of prompts: which positions hold words. One function a kind of tokenizer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from loco_core.errors import ModelError

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Reading:
    """How much of a prompt a pipeline reads: known without its weights.

    Attributes:
        tokenizer: component that cuts prompts into tokens.
        tokens: read at most, start and end among them; 0 as the tokenizer itself says.
        lower: whether the pipeline writes prompts in small letters first.
        encoder: component whose configuration says how many positions and words it has; empty where nobody needs to
            know.
        template: what the pipeline puts a prompt into, ``{}`` in its place, whose tokens count too.
        unquoted: whether words in quotation marks are refused.
    """

    tokenizer: str
    tokens: int = 0
    lower: bool = False
    encoder: str = ""
    template: str = "{}"
    unquoted: bool = False


def in_full(tokenizer: Any, text: str) -> str:
    """Returns a text with words of several vectors in full: ``<cat>`` as ``<cat> <cat>_1``, as pipelines read it.

    Args:
        tokenizer: a tokenizer that textual inversions may have taught words.
        text: the text.
    """
    added = getattr(tokenizer, "added_tokens_encoder", {})
    longer = [word for word in added if f"{word}_1" in added]
    # Told by its tokens, as one word may be the beginning of another.
    for word in set(longer) & set(tokenizer.tokenize(text)) if longer else ():
        rest = [f"{word}_{i}" for i in range(1, len(added)) if f"{word}_{i}" in added]
        text = text.replace(word, " ".join([word, *rest]))
    return text


def clip_tokens(tokenizer: Any, prompts: list[str], *, cut: bool = False) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns ids and words of prompts as CLIP reads them.

    The start is no word, but it sits at the first position of every sentence and counts as one.

    Args:
        tokenizer: a CLIP tokenizer.
        prompts: the prompts.
        cut: whether prompts may be longer than CLIP reads, as another encoder reads the rest.

    Returns:
        ``(prompts, tokens)`` int64 ids, and ``(prompts, tokens)`` bool: up to the last word.

    Raises:
        ModelError: a prompt is longer than CLIP reads: what is asked of the picture might be in the rest.
    """
    import torch

    length, prompts = tokenizer.model_max_length, [in_full(tokenizer, text) for text in prompts]
    ids = tokenizer(prompts, padding="max_length", max_length=length, truncation=True, return_tensors="pt").input_ids
    counts = [len(tokenizer(text).input_ids) for text in prompts]
    if not cut:
        check_lengths(prompts, counts, length)
    ends = torch.tensor([min(count, length) - 1 for count in counts])
    return ids, torch.arange(length) < ends[:, None]


def t5_tokens(tokenizer: Any, prompts: list[str], length: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns ids and words of prompts as T5 reads them: words, one end, padding.

    Args:
        tokenizer: a T5 tokenizer.
        prompts: the prompts, preprocessed as the pipeline does.
        length: tokens a prompt is padded to.

    Returns:
        ``(prompts, tokens)`` int64 ids, and ``(prompts, tokens)`` bool: up to the last word.

    Raises:
        ModelError: a prompt is longer than that.
    """
    check_lengths(prompts, [len(tokenizer(text).input_ids) for text in prompts], length)
    read = tokenizer(
        prompts, padding="max_length", max_length=length, truncation=True, add_special_tokens=True, return_tensors="pt"
    )
    return read.input_ids, read.attention_mask.bool() & (read.input_ids != tokenizer.eos_token_id)


def chat_tokens(
    tokenizer: Any, prompts: list[str], template: str, before: int, length: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns ids and words of prompts as a language model reads them inside a template of a conversation.

    Args:
        tokenizer: tokenizer of the language model.
        prompts: the prompts.
        template: with ``{}`` in place of a prompt.
        before: tokens of the template in front of a prompt, which are not kept.
        length: tokens behind those that are read of a prompt and what follows it.

    Returns:
        ``(prompts, tokens)`` int64 ids of what is kept, and ``(prompts, tokens)`` bool: up to the last word. They
        are as long as the longest one, rounded up to a multiple of :data:`PADDED_TO`.

    Raises:
        ModelError: a prompt is longer than that.
    """
    import torch

    rows = [tokenizer(template.format(text)).input_ids[before:] for text in prompts]
    behind = len(tokenizer(template.partition("{}")[2]).input_ids)
    check_lengths(prompts, [len(row) - behind for row in rows], length - behind)
    counts = torch.tensor([len(row) for row in rows])
    longest = -(-int(counts.max()) // PADDED_TO) * PADDED_TO
    ids = torch.full((len(rows), longest), int(tokenizer.pad_token_id))
    for number, row in enumerate(rows):
        ids[number, : len(row)] = torch.tensor(row)
    return ids, torch.arange(longest) < (counts - behind)[:, None]


PADDED_TO = 64
"""Prompts that nothing pads are padded to multiples of so many tokens: most of a sweep's are of one length then."""


def padded(tokens: torch.Tensor, length: int) -> torch.Tensor:
    """Returns ``(rows, tokens, ...)`` with zeros behind them, as many as make ``length`` tokens."""
    import torch

    more = tokens.new_zeros(len(tokens), length - tokens.shape[1], *tokens.shape[2:])
    return torch.cat([tokens, more], 1)


def templated_tokens(
    tokenizer: Any, write: Callable[[str], str], prompts: list[str], length: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns ids and words of prompts that a language model reads inside a chat.

    What the chat says in front of a prompt is no word of it, but stands in front of every sentence and counts as some;
    what it says behind is its end. Padding stands on the side that the tokenizer puts it on.

    Args:
        tokenizer: a tokenizer of transformers.
        write: writes a prompt into the chat, special tokens included.
        prompts: the prompts.
        length: tokens a prompt is padded to.

    Returns:
        ``(prompts, tokens)`` int64 ids, and ``(prompts, tokens)`` bool: from the chat's first token to the last word.

    Raises:
        ModelError: a prompt is longer than that with what the chat says around it.
    """

    def read(text: str) -> list[int]:
        found: list[int] = tokenizer(write(text), add_special_tokens=False).input_ids
        return found

    check_lengths(prompts, [len(read(text)) for text in prompts], length)
    found = tokenizer(
        [write(text) for text in prompts], padding="max_length", max_length=length, truncation=True,
        add_special_tokens=False, return_tensors="pt",
    )  # fmt: skip
    nothing, something = read("")[::-1], read("a")[::-1]
    behind = next(at for at, (one, other) in enumerate(zip(nothing, something, strict=False)) if one != other)
    mask = found.attention_mask
    follow = mask.sum(1, keepdim=True) - mask.cumsum(1)
    return found.input_ids, mask.bool() & (follow >= behind)


def quoted(text: str) -> bool:
    """Tells whether a text has words in quotation marks, as the pipelines do that read these with ByT5."""
    from diffusers.pipelines.hunyuan_image.pipeline_hunyuanimage import extract_glyph_text

    return extract_glyph_text(text) is not None


UNQUOTED = "has words in quotation marks, which this model reads and guides apart; expected none"
"""Said of a prompt that is refused for them."""


def check_lengths(prompts: list[str], counts: list[int], length: int) -> None:
    """Refuses prompts of more tokens than are read.

    Raises:
        ModelError: there is one.
    """
    for text, count in zip(prompts, counts, strict=True):
        if count > length:
            raise ModelError(
                f'the prompt "{text[:60]}..." has {count} tokens, of which the model reads {length}; shorten it'
            )
