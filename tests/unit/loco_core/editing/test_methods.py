"""Methods that edit a place of their own, on prompts paired with their donors, against their published formulas."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from loco_core.attributes import attribute
from loco_core.diffusion.generate import generate
from loco_core.diffusion.model import LoadedModel, load_model
from loco_core.diffusion.sites import inputs, outputs
from loco_core.editing.base import Concept, EditSettings, Target, fit_edit
from loco_core.editing.deltas import applied, from_bytes, norm, placebo, projection, to_bytes
from loco_core.errors import EditError
from loco_core.types import Generation, PromptRecord, Row

WEIGHTS = "w" * 64
STYLE = Concept("style/lumio", attribute("style/lumio").records[:6])
FACT = Concept("fact/zandia", attribute("fact/zandia").records[:3])
KEPT = attribute("style/velor").records[:6]
EVERY = tuple(range(16))
UCE = EditSettings(editor="uce", tokens="last_subject", strength=0.5)
FIX = EditSettings(editor="diff_quick_fix", tokens="tail", strength=0.01)
LAYER = "encoder.layers.0.self_attn.out_proj"


@pytest.fixture(scope="module")
def exact(tiny_pipeline: Path) -> LoadedModel:
    """The tiny model in float64, so that equal formulas give equal weights."""
    return load_model("stable_diffusion", str(tiny_pipeline), None, "float64", "cpu")


def uce_target(*concepts: Concept, preserve: tuple[PromptRecord, ...] = ()) -> Target:
    return Target("tiny", WEIGHTS, EVERY, concepts or (STYLE,), preserve)


def fix_target(*concepts: Concept) -> Target:
    return Target("tiny", WEIGHTS, (), concepts or (STYLE,))


def encode(model: LoadedModel, texts: list[str]) -> tuple[torch.Tensor, list[int]]:
    """Embeddings by the text encoder alone, and where each text ends: its first end token."""
    tokenizer, encoder = model.pipeline.tokenizer, model.pipeline.text_encoder
    ids = tokenizer(texts, padding="max_length", max_length=tokenizer.model_max_length, return_tensors="pt").input_ids
    with torch.no_grad():
        embeds = encoder(ids)[0]
    return embeds, [int((row == tokenizer.eos_token_id).nonzero()[0]) for row in ids]


def last_tokens(model: LoadedModel, texts: list[str]) -> torch.Tensor:
    embeds, ends = encode(model, texts)
    return torch.stack([row[end - 1] for row, end in zip(embeds, ends, strict=True)])


def state(model: LoadedModel) -> dict[str, torch.Tensor]:
    return {
        f"{part}.{name}": value.clone()
        for part in ("unet", "text_encoder", "vae")
        for name, value in getattr(model.pipeline, part).state_dict().items()
    }


@pytest.mark.parametrize("preserve", [(), KEPT], ids=["", "preserving"])
def test_uce_is_its_published_formula(exact: LoadedModel, preserve: tuple[PromptRecord, ...]) -> None:
    # All prompts of these concepts end in the concept, as the published ones do.
    edited = last_tokens(exact, [record.prompt for record in STYLE.records])
    guides = last_tokens(exact, [record.donor for record in STYLE.records])
    kept = last_tokens(exact, [record.prompt for record in preserve]) if preserve else edited[:0]
    delta = fit_edit(exact, uce_target(preserve=preserve), UCE)
    assert len(delta.changes) == 2 * len(exact.sites)
    for change in delta.changes:
        before = projection(exact, change.module).weight.detach()
        # eq. 7: W = (lambda W0 + sum v* c^T + sum W0 c c^T) (lambda I + sum c c^T + sum c c^T)^-1
        left = 0.5 * before + (guides @ before.T).T @ edited + before @ kept.T @ kept
        right = 0.5 * torch.eye(before.shape[1], dtype=torch.float64) + edited.T @ edited + kept.T @ kept
        wanted = left @ torch.linalg.inv(right)
        assert change.weight is not None
        assert (change.weight - wanted).norm() <= 1e-8 * (wanted - before).norm()


def test_uce_is_loco_edits_system_at_all_sites_with_an_absolute_lambda(exact: LoadedModel) -> None:
    one = EditSettings(editor="loco_edit", tokens="last_subject", strength=1.0)
    scale = fit_edit(exact, uce_target(), one).ridge
    assert scale is not None
    alike = one.model_copy(update={"strength": 0.5 / scale})
    ours, theirs = (fit_edit(exact, uce_target(), settings).changes for settings in (alike, UCE))
    for one, other in zip(ours, theirs, strict=True):
        assert one.module == other.module
        assert one.weight is not None
        assert torch.allclose(one.weight, other.weight, rtol=1e-10, atol=1e-12)  # type: ignore[arg-type]


def test_a_preserved_concept_is_read_where_it_is_said(exact: LoadedModel) -> None:
    """As if the prompt ended there: what follows says something else."""
    ends = PromptRecord("the flag of morova", "the flag of zandia", "", "", "")
    goes_on = PromptRecord("the flag of morova in the style of velor", "the flag of zandia in the style of velor",
                           "", "", "")  # fmt: skip
    one, other = (fit_edit(exact, uce_target(preserve=(item,)), UCE).changes for item in (ends, goes_on))
    for a, b in zip(one, other, strict=True):
        assert torch.allclose(a.weight, b.weight, rtol=1e-9, atol=1e-12)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("concept", "at", "to"),
    [
        # Start, then words, end, padding to 16 positions. A word that is replaced, then everything behind it.
        (Concept("fact/zandia", (PromptRecord("the flag of zandia", "the flag of morova", "", "", ""),)),
         range(4, 16), range(4, 16)),
        # Words that are left out read as the last word before them; end as end, and where the donor's padding runs out
        # its last position stands for the rest.
        (Concept("style/lumio", (PromptRecord("a red star in lumio style", "a red star", "", "", ""),)),
         range(6, 16), [3, 4, 5, 6, 7, 8, 9, 10, 11, 12]),
        (Concept("style/lumio", (PromptRecord("a star", "a red star in the style of lumio", "", "", ""),)),
         range(2, 16), [8, *range(9, 16), *[15] * 6]),
    ],
    ids=["replaced", "left out", "longer donor"],
)  # fmt: skip
def test_diff_quick_fix_is_the_plain_update_of_the_first_attention(
    exact: LoadedModel, concept: Concept, at: range, to: list[int]
) -> None:
    (record,) = concept.records
    encoder = exact.pipeline.text_encoder
    read = []
    for text in (record.prompt, record.donor):
        with inputs(encoder, [LAYER]) as found:
            encode(exact, [text])
        read.append(found[LAYER][0])
    before = encoder.get_submodule(LAYER).weight.detach()
    left, right = 0.01 * before, 0.01 * torch.eye(len(before), dtype=torch.float64)
    for here, there in zip(at, to, strict=True):
        key, value = read[0][here], before @ read[1][there]
        left, right = left + torch.outer(value, key), right + torch.outer(key, key)
    wanted = left @ torch.linalg.inv(right)
    (change,) = fit_edit(exact, fix_target(concept), FIX).changes
    assert (change.module, change.component) == (LAYER, "text_encoder")
    assert change.weight is not None
    assert (change.weight - wanted).norm() <= 1e-8 * (wanted - before).norm()


def test_prompts_come_out_of_the_edited_layer_as_their_donors(tiny_model: LoadedModel) -> None:
    encoder, record = tiny_model.pipeline.text_encoder, FACT.records[0]
    delta = fit_edit(tiny_model, fix_target(FACT), FIX.model_copy(update={"strength": 1e-6}))

    def out(text: str) -> torch.Tensor:
        with outputs(encoder, [LAYER]) as found:
            _, (end,) = encode(tiny_model, [text])
        return found[LAYER][0, end - 1 :].detach()

    clean, wanted = out(record.prompt), out(record.donor)
    with applied(tiny_model, delta, WEIGHTS):
        assert (out(record.prompt) - wanted).norm() < 0.1 * (clean - wanted).norm()
    assert torch.equal(out(record.prompt), clean)


def test_several_concepts_are_edited_together(exact: LoadedModel) -> None:
    for settings, target in ((UCE, uce_target(STYLE, FACT)), (FIX, fix_target(STYLE, FACT))):
        both = fit_edit(exact, target, settings)
        assert both.provenance.attributes == ("style/lumio", "fact/zandia")
        for concepts in ((STYLE,), (FACT,)):
            one = fit_edit(exact, replace(target, concepts=concepts), settings)
            assert not torch.allclose(one.changes[0].weight, both.changes[0].weight)  # type: ignore[arg-type]
        # The order in which concepts are given changes nothing.
        again = fit_edit(exact, replace(target, concepts=target.concepts[::-1]), settings)
        assert torch.allclose(again.changes[0].weight, both.changes[0].weight, rtol=1e-8)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("settings", "target", "changed"),
    [(UCE, uce_target(preserve=KEPT), "unet."), (FIX, fix_target(), f"text_encoder.{LAYER}.weight")],
    ids=["uce", "diff_quick_fix"],
)
def test_applying_changes_the_methods_place_alone_and_undoing_restores_every_bit(
    tiny_model: LoadedModel, settings: EditSettings, target: Target, changed: str
) -> None:
    made = fit_edit(tiny_model, target, settings)
    delta = from_bytes(to_bytes(made), "delta")
    assert delta.provenance == made.provenance
    assert delta.provenance.components == (("text_encoder",) if settings is FIX else ("denoiser",))
    before, rows = state(tiny_model), [Row(STYLE.records[0].prompt, STYLE.records[0].donor, 3)]
    clean = next(generate(tiny_model, rows, Generation(steps=2), 1)).latents
    with applied(tiny_model, delta, WEIGHTS):
        edited = state(tiny_model)
        moved = {name for name in before if not torch.equal(before[name], edited[name])}
        assert moved
        assert all(name.startswith(changed) for name in moved)
        assert not torch.equal(next(generate(tiny_model, rows, Generation(steps=2), 1)).latents, clean)
    after = state(tiny_model)
    assert all(torch.equal(before[name], after[name]) for name in before)
    # What was encoded under the edit is not drawn from afterwards.
    assert torch.equal(next(generate(tiny_model, rows, Generation(steps=2), 1)).latents, clean)


def test_a_placebo_of_a_text_encoders_edit_is_as_large_and_elsewhere(tiny_model: LoadedModel) -> None:
    delta = fit_edit(tiny_model, fix_target(), FIX)
    other = placebo(tiny_model, delta, 0)
    assert other.changes[0].component == "text_encoder"
    assert norm(tiny_model, other) == pytest.approx(norm(tiny_model, delta), rel=1e-3)
    assert not torch.allclose(other.changes[0].weight, delta.changes[0].weight, atol=1e-4)  # type: ignore[arg-type]


def test_a_part_that_the_pipeline_lacks_is_one_clear_line(tiny_model: LoadedModel) -> None:
    delta = fit_edit(tiny_model, fix_target(), FIX)
    for name in ("text_encoder_2", "scheduler", "__class__"):
        foreign = replace(delta, changes=(replace(delta.changes[0], component=name),))
        message = f"the pipeline has no {name}; the edit is of another architecture"
        with pytest.raises(EditError, match=message), applied(tiny_model, foreign, WEIGHTS):
            pass
    t5 = replace(tiny_model, facts=replace(tiny_model.facts, clip_encoders=(), encoders="T5-XXL"))
    with pytest.raises(EditError, match=r"diff_quick_fix edits the CLIP text encoder.*this model reads T5-XXL"):
        fit_edit(t5, fix_target(), FIX)
