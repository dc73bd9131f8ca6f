"""Texts of several lengths below each other."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from loco_core.diffusion.model import PromptEmbeds, load_model
from loco_core.diffusion.packed import NO_TOKEN, aligned
from loco_core.editing.token_pairs import changed_words
from loco_core.tracing.attention import _concepts
from loco_core.types import Engine, Row
from tests.support.tiny_packed import build


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


def test_words_of_a_concept_stand_where_the_prompt_has_them_whatever_the_donor_is_as_long(tmp_path: Path) -> None:
    model = load_model("lumina2", str(build("lumina2", tmp_path)), None, "float32", "cpu")
    prompt = "a circle beside a star"
    long = _concepts(model, [Row(prompt, "a red circle in the style of lumio beside a star", 0)])
    short = _concepts(model, [Row(prompt, "a blue beside a star", 0)])
    assert long.shape == short.shape
    # Words are added in front of the one that a shorter donor exchanges.
    assert long.sum() == 1
    assert abs(long.nonzero()[0, 1] - short.nonzero()[0, 1]) <= 1


def test_attentions_in_which_padding_is_hidden_are_not_compiled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They would keep the batch that they were compiled with."""
    compiled: list[torch.nn.Module] = []
    monkeypatch.setattr(torch.nn.Module, "compile", lambda module: compiled.append(module))
    monkeypatch.setattr("loco_core.diffusion.engine.check", lambda *_: None)
    model = load_model("lumina2", str(build("lumina2", tmp_path)), None, "float32", "cpu", Engine(compile=True))
    inside = {id(part) for module in compiled for part in module.modules()}
    transformer = model.pipeline.transformer
    held = [transformer.get_submodule(site.attention_path) for site in model.sites]
    held += [block.attn for block in transformer.context_refiner]
    assert not inside & {id(module) for module in held}
    assert {id(block.feed_forward) for block in transformer.context_refiner} <= inside
    assert {id(block) for block in transformer.noise_refiner} <= inside
