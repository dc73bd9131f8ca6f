"""What is particular to families in which text and image share a stream."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch

from loco_core.diffusion.checks import load_tokenizer
from loco_core.diffusion.folders import pipeline_files
from loco_core.diffusion.generate import generate
from loco_core.diffusion.model import PromptEmbeds, load_model
from loco_core.diffusion.sites import inputs
from loco_core.diffusion.tokens import templated_tokens
from loco_core.diffusion.wanted import pipeline_choice
from loco_core.editing.base import Concept
from loco_core.editing.token_pairs import paired_positions, token_pairs
from loco_core.errors import ModelError, SpecError
from loco_core.types import Generation, Intervention, PromptRecord, Row
from orchestrator.resolve.lookup import resolve, resolve_model
from orchestrator.resolve.texts import prompt_reader
from orchestrator.spec import ModelSpec
from tests.support.sweeps import tiny_sweep
from tests.support.tiny_models import SIDE, save
from tests.support.tiny_streams import build, flux2_klein, mistral_tokenizer, qwen_tokenizer

PROMPT, DONOR = "a red circle in the style of lumio", "a red circle"
SETTINGS = Generation(2, 4.0, SIDE, SIDE)


def drawn(folder: Path, scale: float, rows: list[Row]) -> torch.Tensor:
    model = load_model("flux2_klein", str(folder), None, "float32", "cpu")
    return torch.cat([part.latents for part in generate(model, rows, replace(SETTINGS, guidance_scale=scale), 4)])


def test_a_distilled_klein_runs_no_guidance_at_any_scale(tmp_path: Path) -> None:
    save(partial(flux2_klein, is_distilled=True), tmp_path / "distilled")
    rows = [Row(PROMPT, DONOR, 3), Row(PROMPT, DONOR, 3, Intervention((1, 3)))]
    without = drawn(tmp_path / "distilled", 1.0, rows)
    assert torch.equal(drawn(tmp_path / "distilled", 4.0, rows), without)
    build("flux2_klein", tmp_path / "base")
    assert torch.equal(drawn(tmp_path / "base", 1.0, rows), without)
    assert not torch.equal(drawn(tmp_path / "base", 4.0, rows), without)
    assert not torch.equal(without[0], without[1])
    option = {"interventions": [{"guidance_half": "both"}], "prompts": 1}
    sweep = partial(tiny_sweep, **option, generation={"steps": 2, "guidance_scale": 4.0})
    with pytest.raises(SpecError, match="distilled guidance, without an unconditional half"):
        resolve(sweep("unused", models=[{"id": "mine", "path": str(tmp_path / "distilled")}]))
    resolve(sweep("unused", models=[{"id": "mine", "path": str(tmp_path / "base")}]))


def test_words_of_a_chat_are_told_on_both_sides_of_padding() -> None:
    prompts = ["a red circle", "", "a blue star"]
    for tokenizer, write in (
        (qwen_tokenizer(), lambda text: f"<|im_start|>user\n{text}<|im_end|>\n"),
        (mistral_tokenizer(), lambda text: f"<s>[INST]{text}[/INST]"),
    ):
        ids, words = templated_tokens(tokenizer, write, prompts, 40)
        said = [tokenizer.decode(row[mask]) for row, mask in zip(ids, words, strict=True)]
        around = write("*").split("*")
        assert said == [around[0] + text for text in prompts]
        assert words[0, 0] == (tokenizer.padding_side == "right")
        assert ids.shape == words.shape == (3, 40)
    with pytest.raises(ModelError, match="has 43 tokens, of which the model reads 40"):
        templated_tokens(tokenizer, write, ["a" + " red" * 39], 40)


def test_positions_are_paired_from_the_first_word_on_wherever_padding_stands() -> None:
    """The same sentences behind padding: words are paired by their numbers."""

    def texts(*words: int, front: int) -> PromptEmbeds:
        ids = torch.zeros(1, 12, dtype=torch.long)
        ids[0, front : front + len(words)] = torch.tensor(words)
        return PromptEmbeds(torch.zeros(1, 12, 4), ids, ids > 0)

    prompt, donor = (5, 6, 7, 8, 9), (5, 6, 9)
    right = paired_positions(texts(*prompt, front=0), texts(*donor, front=0), 0)
    left = paired_positions(texts(*prompt, front=6), texts(*donor, front=8), 0)
    assert right == [(0, True), (1, True), (1, False), (1, False), (2, True)]
    assert left == right


def test_an_edit_reads_what_words_stand_for_behind_padding(tmp_path: Path) -> None:
    model = load_model("flux2", str(build("flux2", tmp_path / "flux2")), None, "float32", "cpu")
    prompts, donors = (model.family.encode(model.pipeline, [text]) for text in (PROMPT, DONOR))
    ends = [int(texts.words[0].nonzero()[-1]) for texts in (prompts, donors)]
    # The chat's end stands behind both.
    assert ends[0] == ends[1] < 511
    record = Concept("style/x", (PromptRecord(PROMPT, DONOR, "", "", ""),))
    (subject,) = token_pairs(model, record, "last_subject", [0])
    (every,) = token_pairs(model, record, "all", [0])
    assert len(every.keys) == 512
    # Words first.
    last = int(prompts.words[0].sum()) - 1
    assert torch.equal(every.keys[last], subject.keys[0])
    assert torch.equal(every.donors[last], subject.donors[0])
    with torch.no_grad(), inputs(model.pipeline.transformer, [model.sites[0].key_path]) as read:
        model.family.forward(model.pipeline, prompts)
    assert torch.allclose(read[model.sites[0].key_path][0, ends[0]], subject.keys[0], atol=1e-5)
    places = paired_positions(prompts, donors, 0)
    same = [at for at, (_, equal) in enumerate(places) if equal]
    said, other = (texts.ids[0][texts.words[0]] for texts in (prompts, donors))
    assert bool((said[same] == other[[places[at][0] for at in same]]).all())


@pytest.mark.parametrize("family", ["flux2", "flux2_klein"])
def test_plan_refuses_no_prompt_that_fits_into_a_chat(family: str, tmp_path: Path) -> None:
    model = load_model(family, str(build(family, tmp_path)), None, "float32", "cpu")
    found = prompt_reader(resolve_model(ModelSpec(id="mine", path=str(tmp_path))), ("models", 0))
    assert found is not None
    reader = load_tokenizer(found)
    texts = ["a" + " red" * words for words in (60, 300, 450, 480, 505, 540)]
    by_worker = [refused(lambda text=text: model.family.encode(model.pipeline, [text])) for text in texts]
    by_plan = [refused(lambda text=text: reader.ids(text, "the prompt")) for text in texts]
    # What the system says around them, the loaded pipeline counts.
    assert by_plan == [False, False, False, False, family == "flux2_klein", True]
    assert by_worker == [False, False, family == "flux2", family == "flux2", True, True]


def refused(act: Callable[[], object]) -> bool:
    try:
        act()
    except (ModelError, SpecError) as error:
        return "shorten it" in str(error)
    return False


def test_a_processor_brings_its_tokenizer_and_a_tokenizer_its_chat(tmp_path: Path) -> None:
    for family in ("flux2", "flux2_klein"):
        folder = build(family, tmp_path / family)
        used = {str(file.relative_to(folder)) for file in pipeline_files(folder)}
        wanted = {"tokenizer/tokenizer.json", "tokenizer/tokenizer_config.json", "tokenizer/chat_template.jinja"}
        assert wanted <= used
        names = [str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file()]
        assert wanted <= set(pipeline_choice()("some/model", names, folder))
    index = json.loads((tmp_path / "flux2" / "model_index.json").read_text())
    assert index["tokenizer"] == ["transformers", "PixtralProcessor"]
    for name in wanted - {"tokenizer/tokenizer_config.json", "tokenizer/chat_template.jinja"}:
        (tmp_path / "flux2" / name).unlink()
    with pytest.raises(ModelError, match="holds no processor for tokenizer"):
        pipeline_files(tmp_path / "flux2")
