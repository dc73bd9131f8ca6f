"""Texts of several lengths below each other."""

from __future__ import annotations

import torch

from loco_core.diffusion.model import PromptEmbeds
from loco_core.diffusion.packed import NO_TOKEN, aligned
from loco_core.editing.token_pairs import changed_words


def text(tokens: int, first: int) -> PromptEmbeds:
    ids = torch.arange(first, first + tokens)[None]
    return PromptEmbeds(ids[..., None].float().expand(-1, -1, 3), ids, torch.ones(1, tokens, dtype=torch.bool))


def test_texts_end_at_one_place_and_nothing_is_in_front_of_shorter_ones() -> None:
    found = aligned([text(2, 5), text(4, 10), text(1, 20)])
    assert found.ids.tolist() == [[NO_TOKEN, NO_TOKEN, 5, 6], [10, 11, 12, 13], [NO_TOKEN] * 3 + [20]]
    assert found.mask is not None
    assert found.mask.tolist() == [[0, 0, 1, 1], [1, 1, 1, 1], [0, 0, 0, 1]]
    assert torch.equal(found.words, found.mask.bool())
    assert torch.equal(found.embeds[..., 0], found.ids.where(found.words, torch.tensor(0)).float())


def test_words_that_a_donor_changes_are_found_where_they_stand() -> None:
    prompts, donors = aligned([text(2, 5), text(4, 10)]), aligned([text(3, 4), text(1, 10)])
    # Of 5 6 against 4 5 6 a word is added in front; of 10 11 12 13 against 10 the last three are gone.
    assert changed_words(prompts, donors, 0) == [2]
    assert changed_words(prompts, donors, 1) == [1, 2, 3]
