"""Texts of families in which text and image attend to each other, where they are not as in any other."""

from __future__ import annotations

import pytest
import torch

from loco_core.diffusion.model import LoadedModel, load_model
from loco_core.diffusion.tokens import PADDED_TO
from loco_core.editing.base import Concept
from loco_core.editing.token_pairs import token_pairs
from loco_core.types import PromptRecord
from tests.support.tiny_joint import build

PROMPT, DONOR = "a red circle in the style of lumio", "a blue star"


@pytest.fixture(scope="module")
def qwen(tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    folder = build("qwen_image", tmp_path_factory.mktemp("models") / "qwen_image")
    return load_model("qwen_image", str(folder), None, "float32", "cpu")


@pytest.mark.parametrize(("text", "sentence"), [(PROMPT, PROMPT), (DONOR, DONOR), ("", " ")])
def test_qwen_image_reads_a_sentence_as_its_pipeline_does(qwen: LoadedModel, text: str, sentence: str) -> None:
    among = qwen.family.encode(qwen.pipeline, ["a yellow moon", text, PROMPT]).take([1])
    alone, mask = qwen.pipeline.encode_prompt(sentence)
    count = alone.shape[1]
    assert mask is None
    assert among.mask is not None
    assert torch.allclose(among.embeds[:, :count], alone, atol=1e-5)
    assert not among.embeds[:, count:].any()
    assert among.mask.sum() == among.mask[:, :count].sum() == count
    # The template closes the turn and opens another behind the last word, in five tokens.
    assert among.words.sum() == among.words[:, : count - 5].sum() == count - 5


def test_a_long_prompt_is_fitted_beside_a_short_donor(qwen: LoadedModel) -> None:
    long = "a red circle " * (PADDED_TO // 3) + "in the style of lumio"
    concept = Concept("style/x", (PromptRecord(long, DONOR, "", "", ""),))
    (pairs,) = token_pairs(qwen, concept, "all", (0,))
    words = len(long.split())
    assert len(pairs.keys) == len(pairs.donors) == words + 5
