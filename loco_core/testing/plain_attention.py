"""The paper's intervention where texts have lengths of their own: at attention calls, one image at a time, by hand.

K and V of the text are noted and replaced behind norms and rotary embeddings, so that neither batches nor padding are
needed: a row's queries look at the tokens of the donor's text and at those of its own image, and at nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from loco_core.types import Row

Attend = Callable[..., torch.Tensor]
Changed = Callable[[str, Attend, torch.Tensor, torch.Tensor, torch.Tensor, dict[str, Any]], torch.Tensor]


@dataclass(frozen=True)
class Rotary:
    """How a denoiser turns keys by the position of a token on the axis that counts the text.

    Attributes:
        width: numbers of a head that are turned by that axis, the first ones, two neighbours together.
        theta: base of the angles.
    """

    width: int = 0
    theta: float = 10000.0

    def turned(self, keys: torch.Tensor, further: int) -> torch.Tensor:
        """Returns keys ``(..., tokens, width)`` as of positions that are so much further."""
        if not self.width:
            return keys
        pairs = keys[..., : self.width].reshape(*keys.shape[:-1], -1, 2).double()
        angles = further * self.theta ** -(torch.arange(0, self.width, 2, dtype=torch.float64) / self.width)
        first = pairs[..., 0] * angles.cos() - pairs[..., 1] * angles.sin()
        second = pairs[..., 0] * angles.sin() + pairs[..., 1] * angles.cos()
        turned = torch.stack([first, second], -1).flatten(-2).to(keys.dtype)
        return torch.cat([turned, keys[..., self.width :]], -1)


@dataclass(frozen=True)
class Text:
    """K and V of a text at an attention.

    Attributes:
        keys: ``(heads, tokens, width)``.
        values: likewise.
    """

    keys: torch.Tensor
    values: torch.Tensor


@contextmanager
def attending(denoiser: torch.nn.Module, paths: Sequence[str], changed: Changed) -> Iterator[None]:
    """Puts a function in the place of torch's attention inside some attentions, while a ``with`` block runs."""
    within: list[str] = []
    plain = torch.nn.functional.scaled_dot_product_attention

    def attend(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, **rest: Any) -> torch.Tensor:
        if not within:
            return plain(query, key, value, **rest)
        return changed(within[-1], plain, query, key, value, rest)

    handles = []
    for path in paths:
        module = denoiser.get_submodule(path)
        handles.append(module.register_forward_pre_hook(lambda *_, path=path: within.append(path)))
        handles.append(module.register_forward_hook(lambda *_: (within.pop(), None)[1]))
    functions: Any = torch.nn.functional
    functions.scaled_dot_product_attention = attend
    try:
        yield
    finally:
        functions.scaled_dot_product_attention = plain
        for handle in handles:
            handle.remove()


def span(lengths: Mapping[str, int], half: str, tokens: int, *, last: bool) -> tuple[slice, slice]:
    """Returns where text and image of a half are in a sequence.

    Args:
        lengths: tokens of the text of every half of the call.
        half: which half.
        tokens: of the whole sequence, which is as long as the longest needs.
        last: whether the image stands in front.
    """
    image, text = tokens - max(lengths.values()), lengths[half]
    if last:
        return slice(image, image + text), slice(0, image)
    return slice(0, text), slice(text, text + image)


def read(
    attend: Attend,
    query: torch.Tensor,
    own: Text,
    donor: Text,
    image: Text,
    taken: Mapping[str, torch.Tensor],
    rest: Mapping[str, Any],
) -> torch.Tensor:
    """Returns ``(heads, queries, width)``: what queries read where positions of the text come from a donor.

    Texts stand below each other with their ends at one place. A position of which K or V is to come from a text that
    is too short to have it is left out.

    Args:
        attend: torch's attention.
        query: ``(heads, queries, width)``.
        own: the row's own text.
        donor: the donor's, keys turned to where they belong.
        image: K and V of the row's own image.
        taken: for ``k`` and ``v``, which of the last positions come from the donor.
        rest: further arguments of torch's attention.
    """
    keys, values = [image.keys], [image.values]
    count = len(taken["k"])
    for position in range(count):
        chosen = [donor if taken[letter][position] else own for letter in "kv"]
        places = [position - count + text.keys.shape[1] for text in chosen]
        if min(places) >= 0:
            keys.append(chosen[0].keys[:, places[0] : places[0] + 1])
            values.append(chosen[1].values[:, places[1] : places[1] + 1])
    rest = {name: value for name, value in rest.items() if name != "attn_mask"}
    return attend(query[None], torch.cat(keys, 1)[None], torch.cat(values, 1)[None], **rest)[0]


class Counted(Protocol):
    """Calls of the denoiser, as the plain loop counts them.

    Attributes:
        step: the denoising step that runs.
        halves: halves of guidance in the batch of this call, in their order.
    """

    step: int
    halves: tuple[str, ...]

    def covered(self, row: Row, taken: Mapping[str, Any]) -> Iterator[tuple[int, str]]:
        """Yields the rows of the batch that an intervention covers now, with their halves."""


@contextmanager
def noting(
    denoiser: torch.nn.Module,
    paths: Sequence[str],
    seen: dict[str, list[Text]],
    calls: Counted,
    lengths: Mapping[str, int],
    *,
    last: bool,
) -> Iterator[None]:
    """Notes K and V of the text of the conditional half at every call of some attentions."""

    def note(path: str, attend: Attend, *given: Any) -> torch.Tensor:
        query, key, value, rest = given
        if "conditional" in calls.halves:
            at = calls.halves.index("conditional")
            text, _ = span(_present(lengths, calls), "conditional", key.shape[2], last=last)
            seen.setdefault(path, []).append(Text(key[at][:, text], value[at][:, text]))
        return attend(query, key, value, **rest)

    with attending(denoiser, paths, note):
        yield


@contextmanager
def overwriting(
    denoiser: torch.nn.Module,
    paths: Sequence[str],
    seen: Mapping[str, list[Text]],
    calls: Counted,
    row: Row,
    taken: Mapping[str, torch.Tensor],
    lengths: Mapping[str, int],
    rotary: Rotary,
    *,
    last: bool,
) -> Iterator[None]:
    """Gives a row's queries K and V of the donor's text that were noted."""

    def overwrite(path: str, attend: Attend, *given: Any) -> torch.Tensor:
        query, key, value, rest = given
        made = attend(query, key, value, **rest)
        for at, half in calls.covered(row, taken):
            noted, present = seen[path][calls.step], _present(lengths, calls)
            text, image = (
                Text(key[at][:, place], value[at][:, place])
                for place in span(present, half, key.shape[2], last=last)
            )  # fmt: skip
            # Both texts end where the image begins to count.
            donor = Text(rotary.turned(noted.keys, lengths[half] - noted.keys.shape[1]), noted.values)
            none = torch.zeros_like(taken[half])
            parts = {letter: taken[half] if letter in row.intervention.part else none for letter in "kv"}
            made = made.clone()
            made[at] = read(attend, query[at], text, donor, image, parts, rest)
        return made

    with attending(denoiser, paths, overwrite):
        yield


def _present(lengths: Mapping[str, int], calls: Counted) -> dict[str, int]:
    return {half: lengths[half] for half in calls.halves}
