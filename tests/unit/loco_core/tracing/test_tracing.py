"""Traces against plain, slow computations of the same; and what they say where the truth is known."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from loco_core import plugins
from loco_core.attributes import attribute
from loco_core.diffusion.facts import families, find_model
from loco_core.diffusion.generate import generate
from loco_core.diffusion.model import LoadedModel, load_model
from loco_core.errors import ModelError, SpecError
from loco_core.scoring.base import load_scorer
from loco_core.testing.plain_loop import encode
from loco_core.tracing import base
from loco_core.tracing.attention import contributions
from loco_core.tracing.base import check_traceable, reads, tracer_id
from loco_core.tracing.causal import corrupt, draw, encoder_layers, layers, trace
from loco_core.types import Generation, Row

SETTINGS = Generation(steps=2, guidance_scale=3.0)
PROMPT, DONOR = "a red circle in the style of lumio", "a red circle"
OTHER, OTHER_DONOR = "a photo of the flag of zandia", "a photo of a flag"
# Positions of the words that the donors change, behind the start: "in the style of lumio"; "the" and "zandia".
CHANGED = {PROMPT: [4, 5, 6, 7, 8], OTHER: [4, 6, 7]}


class _Slow:
    """Stands for an attention's processor, head by head and token by token, and notes what the words write."""

    def __init__(self, words: list[int], noted: list[float]) -> None:
        self._words, self._noted = words, noted

    def __call__(self, attn: Any, hidden_states: torch.Tensor, encoder_hidden_states: torch.Tensor, **_: Any) -> Any:
        query, key, value = attn.to_q(hidden_states), attn.to_k(encoder_hidden_states), attn.to_v(encoder_hidden_states)
        width, out = query.shape[-1] // attn.heads, attn.to_out[0]
        whole = out.bias.expand(*hidden_states.shape[:2], -1).clone()
        written = torch.zeros_like(whole)
        for head in range(attn.heads):
            at = slice(head * width, (head + 1) * width)
            scores = torch.einsum("bid,bjd->bij", query[..., at], key[..., at]) / width**0.5
            weights = scores.exp() / scores.exp().sum(dim=-1, keepdim=True)
            for token in range(key.shape[1]):
                part = (weights[..., token, None] * value[:, token, None, at]) @ out.weight[:, at].T
                whole += part
                written += part if token in self._words else 0
        # The second row of two is the conditional half.
        self._noted.append(float(written[1].square().sum(dim=-1).sqrt().mean()))
        return whole


def slow_contributions(model: LoadedModel, prompt: str, seed: int) -> list[float]:
    """Returns the contribution at every site of one picture, drawn by the pipeline alone."""
    pipe = model.pipeline
    before, noted = dict(pipe.unet.attn_processors), list[list[float]]()
    for site in model.sites:
        noted.append([])
        attention = pipe.unet.get_submodule(site.attention_path)
        attention.set_processor(_Slow(CHANGED[prompt], noted[-1]))
    try:
        pipe(
            prompt_embeds=encode(pipe, prompt), negative_prompt_embeds=encode(pipe, ""), output_type="latent",
            num_inference_steps=SETTINGS.steps, guidance_scale=SETTINGS.guidance_scale,
            generator=torch.Generator().manual_seed(seed),
        )  # fmt: skip
    finally:
        pipe.unet.set_attn_processor(before)
    assert all(len(calls) == SETTINGS.steps for calls in noted)
    return [sum(calls) / len(calls) for calls in noted]


def test_contributions_equal_a_plain_slow_computation(tiny_model: LoadedModel) -> None:
    rows = [Row(PROMPT, DONOR, 3), Row(OTHER, OTHER_DONOR, 5), Row(PROMPT, DONOR, 4)]
    # Three rows in batches of two: the last one is filled up.
    found = contributions(tiny_model, rows, SETTINGS, batch_size=2)
    expected = torch.tensor([slow_contributions(tiny_model, row.prompt, row.seed) for row in rows])
    torch.testing.assert_close(found, expected.double(), rtol=2e-3, atol=1e-7)


def test_a_prompt_that_equals_its_donor_has_no_concept(tiny_model: LoadedModel) -> None:
    with pytest.raises(ModelError, match="equals its donor"):
        contributions(tiny_model, [Row(DONOR, DONOR, 0)], SETTINGS, 1)
    with pytest.raises(ModelError, match="equals its donor"):
        next(trace(tiny_model, DONOR, DONOR, 0, SETTINGS, 8))


def test_all_sites_restored_draw_the_clean_picture_and_none_the_corrupted(tiny_model: LoadedModel) -> None:
    every = tuple(range(len(tiny_model.sites)))
    texts = corrupt(tiny_model, PROMPT, DONOR, 7, [[], [], []])
    clean, corrupted, none, whole = draw(tiny_model, texts, [(), (), (), every], 7, SETTINGS, 5).images
    (alone,) = generate(tiny_model, [Row(PROMPT, DONOR, 7)], SETTINGS, 1)
    assert (clean - alone.images[0]).abs().max() < 1e-4
    assert (whole - clean).abs().max() < 1e-5
    assert torch.equal(none, corrupted)
    assert (corrupted - clean).abs().max() > 1e-2


def test_noise_is_on_the_subject_alone_and_that_of_prompt_and_seed(tiny_model: LoadedModel) -> None:
    def noisy(seed: int, prompt: str = PROMPT, donor: str = DONOR) -> torch.Tensor:
        return corrupt(tiny_model, prompt, donor, seed, [[]]).embeds

    first = noisy(7)
    assert torch.equal(noisy(7), first)
    assert torch.equal(noisy(8)[0], first[0])
    assert not torch.equal(noisy(8)[1], first[1])
    # A causal encoder: what stands before the subject never sees the noise.
    changed = (first[0] != first[1]).any(dim=-1)
    assert not changed[: CHANGED[PROMPT][0]].any()
    assert changed[CHANGED[PROMPT][0] :].all()


def test_noise_is_on_the_word_that_the_donor_changes_and_not_on_another_like_it(tiny_model: LoadedModel) -> None:
    both = corrupt(tiny_model, "a red circle and a red square", "a blue circle and a red square", 7, [[]]).embeds
    changed = (both[0] != both[1]).any(dim=-1)
    # A causal encoder: what stands before the noise is as it was. "red" stands at 2 and at 6, behind the start.
    assert changed.nonzero().flatten().tolist()[0] == 2


def test_noise_has_three_standard_deviations_of_the_word_embeddings(tiny_model: LoadedModel) -> None:
    embedding = tiny_model.pipeline.text_encoder.get_input_embeddings()
    seen: list[torch.Tensor] = []
    # The module around the embedding sees what the noise makes of it.
    inside = tiny_model.pipeline.text_encoder.embeddings
    handle = inside.register_forward_hook(lambda _, __, made: seen.append(made.detach().clone()))
    try:
        for seed in range(8):
            corrupt(tiny_model, PROMPT, DONOR, seed, [[]])
    finally:
        handle.remove()
    # Of three calls the first encodes the prompt and its donor, the others the prompt clean and corrupted.
    pairs = zip(seen[1::3], seen[2::3], strict=True)
    noise = torch.cat([(made - clean)[0, CHANGED[PROMPT]] for clean, made in pairs])
    assert float(noise.std() / embedding.weight.detach().std()) == pytest.approx(3.0, rel=0.05)


def test_restored_layers_of_the_encoder_are_the_clean_ones(tiny_model: LoadedModel) -> None:
    every = range(len(encoder_layers(tiny_model)))
    everywhere = range(tiny_model.pipeline.tokenizer.model_max_length)
    found = corrupt(tiny_model, PROMPT, DONOR, 7, [[], every, [0]], positions=everywhere).embeds
    others = [at for at in everywhere if at not in CHANGED[PROMPT]]
    # All that other positions have of the subject they read from these layers; the noise itself stays at the subject.
    assert torch.equal(found[2][others], found[0][others])
    assert not torch.equal(found[2], found[0])
    # The first self-attention at the last word: what stands before it does not change.
    last = CHANGED[PROMPT][-1]
    one = corrupt(tiny_model, PROMPT, DONOR, 7, [[], [0]]).embeds
    assert torch.equal(one[2][:last], one[1][:last])
    assert not torch.equal(one[2][last], one[1][last])


def test_a_trace_has_a_picture_a_layer_whatever_the_batch(tiny_model: LoadedModel) -> None:
    found = list(trace(tiny_model, PROMPT, DONOR, 7, SETTINGS, 9))
    every = layers(tiny_model)
    assert [item.control for item in found] == ["clean", "corrupted", *["restored"] * len(every)]
    assert [item.layer for item in found[2:]] == list(every)
    assert [layer.name for layer in every[16:18]] == ["text_encoder.layers.0.self_attn", "text_encoder.layers.0.mlp"]
    corrupted = found[1].picture
    site, text = found[2 + 12].picture, found[2 + 16].picture
    assert (site - corrupted).abs().max() > 1e-5
    assert (text - corrupted).abs().max() > 1e-5
    other = list(trace(tiny_model, PROMPT, DONOR, 7, SETTINGS, 25))
    for a, b in zip(found, other, strict=True):
        assert (a.picture - b.picture).abs().max() < 1e-4
    with pytest.raises(ModelError, match="batch_size of 1"):
        next(trace(tiny_model, PROMPT, DONOR, 7, SETTINGS, 1))


def test_models_are_as_they_were(tiny_model: LoadedModel) -> None:
    (before,) = generate(tiny_model, [Row(PROMPT, DONOR, 1)], SETTINGS, 1)
    contributions(tiny_model, [Row(PROMPT, DONOR, 1)], SETTINGS, 1)
    list(trace(tiny_model, PROMPT, DONOR, 1, SETTINGS, 32))
    (after,) = generate(tiny_model, [Row(PROMPT, DONOR, 1)], SETTINGS, 1)
    assert torch.equal(before.images, after.images)


def test_families_that_cannot_be_traced_are_refused_with_those_that_can(monkeypatch: pytest.MonkeyPatch) -> None:
    known = families()
    for method in ("attention_contribution", "causal_tracing"):
        for family in known:
            check_traceable(family, method, "mine")
    mute = replace(known["flux"], text_encoders={})
    monkeypatch.setattr(base, "families", lambda: {**known, "flux": mute})
    with pytest.raises(
        SpecError, match=r"mine \(flux\).*causal_tracing: .* none are known; supported: .*pixart, .*sdxl, .*stable"
    ):
        check_traceable("flux", "causal_tracing", "mine")


def test_a_localizer_says_what_it_reads(tmp_path: Path) -> None:
    assert [reads(name) for name in ("window", "argmin", "causal_tracing")] == [None, None, "causal_tracing"]
    mine = tmp_path / "mine.py"
    mine.write_text('READS = "causal_tracking"\n')
    with pytest.raises(SpecError, match='did you mean "causal_tracing"'):
        reads(str(mine))


@contextmanager
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def test_causal_tracing_finds_a_planted_site() -> None:
    """Styles were planted at sites 12 and 13: restoring one of them brings the style back, and no other site does."""
    family, known = find_model("toy-planted-a")
    model = load_model(family, str(known.path), None, "float32", "cpu")
    scorer, record = load_scorer("toy-clip", None, "cpu"), attribute("style/lumio").records[0]
    with _one_thread():
        found = list(trace(model, record.prompt, record.donor, 0, Generation(8, 3.0), 24))
    embeddings = scorer.embed_images(torch.stack([item.picture for item in found]))
    scores = scorer.score(embeddings, [record.score_text, record.donor_text])
    clean, corrupted, *restored = scores[:, 0] - scores[:, 1]
    back = [(value - corrupted) / (clean - corrupted) for value in restored[: len(model.sites)]]
    assert max(range(16), key=back.__getitem__) in (12, 13)
    assert max(back) > 0.8
    assert max(value for site, value in enumerate(back) if site not in (12, 13)) < 0.1


def test_a_localizer_may_trace_itself_or_name_a_tracer_beside_it(tmp_path: Path) -> None:
    both, reader = tmp_path / "both.py", tmp_path / "reader.py"
    both.write_text("READS = __file__\ndef trace(*given): return iter(())\n")
    reader.write_text('READS = "both.py"\n')
    assert reads(str(both)) == reads(str(reader)) == str(both)
    before = tracer_id(str(both))
    assert re.fullmatch("both@[0-9a-f]{8}", before)
    both.write_text(both.read_text() + "# changed\n")
    plugins.look_again([str(both)])
    assert tracer_id(str(both)) != before
    assert tracer_id("causal_tracing") == "causal_tracing"


def test_a_tracer_without_a_function_is_one_clean_line(tmp_path: Path) -> None:
    file = tmp_path / "empty.py"
    file.write_text("READS = __file__\n")
    with pytest.raises(SpecError, match='has no function "trace"'):
        reads(str(file))
