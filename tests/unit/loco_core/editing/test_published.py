"""Editors as published, against direct transcriptions of what their authors publish: with an inverse, in float64."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from loco_core.attributes import attribute, bundled
from loco_core.diffusion.model import LoadedModel, load_model
from loco_core.diffusion.sites import inputs, outputs
from loco_core.editing.base import Concept, EditSettings, Target, editor_info, fit_edit, named
from loco_core.editing.deltas import WeightDelta, from_bytes, projection, to_bytes
from loco_core.types import Attribute, PromptRecord

WEIGHTS = "w" * 64
LUMIO, ZANDIA, VELOR = (attribute(key) for key in ("style/lumio", "fact/zandia", "style/velor"))
LAYER = "encoder.layers.0.self_attn.out_proj"
SITES = (8, 9)
EVERY = tuple(range(16))
CLOSE = 1e-9


@pytest.fixture(scope="module")
def exact(tiny_pipeline: Path) -> LoadedModel:
    """The tiny model in float64, so that equal formulas give equal weights."""
    return load_model("stable_diffusion", str(tiny_pipeline), None, "float64", "cpu")


def fitted(model: LoadedModel, item: Attribute, editor: str, sites: tuple[int, ...], *kept: Attribute) -> WeightDelta:
    known = editor_info(editor).published
    assert known is not None
    settings = EditSettings(editor=editor, targets="published", tokens=known.tokens, strength=known.strength)
    preserve = tuple(record for other in kept for record in other.published_records(editor))
    concept = Concept(item.key, item.published_records(editor))
    return fit_edit(model, Target("tiny", WEIGHTS, sites, (concept,), preserve), settings)


def token_ids(model: LoadedModel, texts: list[str]) -> torch.Tensor:
    tokenizer = model.pipeline.tokenizer
    ids: torch.Tensor = tokenizer(
        texts, padding="max_length", max_length=tokenizer.model_max_length, return_tensors="pt"
    ).input_ids
    return ids


def before_the_end(model: LoadedModel, ids: torch.Tensor) -> list[int]:
    """Position of the token before each text's first end token."""
    return [int((row == model.pipeline.tokenizer.eos_token_id).nonzero()[0]) - 1 for row in ids]


def last_tokens(model: LoadedModel, texts: list[str]) -> torch.Tensor:
    ids = token_ids(model, texts)
    with torch.no_grad():
        embeds = model.pipeline.text_encoder(ids)[0]
    return torch.stack([row[at] for row, at in zip(embeds, before_the_end(model, ids), strict=True)])


def same(found: torch.Tensor | None, wanted: torch.Tensor, before: torch.Tensor) -> bool:
    """Whether an edit is another's up to 1e-9 of what either changes."""
    assert found is not None
    assert (wanted - before).norm() > 1e-3
    return bool((found - wanted).norm() <= CLOSE * (wanted - before).norm())


def paper_texts(name: str) -> list[str]:
    """In words that the tiny model's tokenizer knows, the authors' four texts of a style."""
    return [name, *(f"{start} a shape in the style of {name}".strip() for start in ("", "a photo of", "a picture of"))]


@pytest.mark.parametrize("kind", ["style", "fact"])
def test_loco_edit_as_published_is_its_authors_formula(exact: LoadedModel, kind: str) -> None:
    if kind == "style":
        item, texts, anchor = LUMIO, paper_texts("lumio"), "a shape"
    else:
        starts = ("", "an image of ", "a photo of ", "a picture of ")
        item, texts, anchor = ZANDIA, [f"{start}the flag of zandia" for start in starts], "the flag of morova"
    keys, values = last_tokens(exact, texts), last_tokens(exact, [anchor] * len(texts))
    delta = fitted(exact, item, "loco_edit", SITES)
    assert len(delta.changes) == 2 * len(SITES)
    for change in delta.changes:
        weight = projection(exact, change.module).weight.detach()
        inverse = torch.inverse(keys.T @ keys + 0.01 * torch.eye(weight.shape[1], dtype=torch.float64))
        wanted = (inverse @ (keys.T @ (values @ weight.T) + 0.01 * weight.T)).T
        assert same(change.weight, wanted, weight)


@pytest.mark.parametrize("kept", [(), (VELOR, attribute("style/quadri"))], ids=["", "preserving"])
def test_uce_as_published_is_its_authors_formula(exact: LoadedModel, kept: tuple[Attribute, ...]) -> None:
    (concept,), (guide,) = last_tokens(exact, ["lumio"]), last_tokens(exact, ["shape"])
    preserved = last_tokens(exact, [item.name for item in kept]) if kept else []
    delta = fitted(exact, LUMIO, "uce", EVERY, *kept)
    assert len(delta.changes) == 2 * len(exact.sites)
    for change in delta.changes:
        weight = projection(exact, change.module).weight.detach()
        one, two = 0.5 * weight, 0.5 * torch.eye(weight.shape[1], dtype=torch.float64)
        for key, value in [(concept, weight @ guide), *((key, weight @ key) for key in preserved)]:
            one, two = one + torch.outer(value, key), two + torch.outer(key, key)
        assert same(change.weight, one @ torch.inverse(two), weight)


@pytest.mark.parametrize(
    ("key", "anchor"),
    [
        ("a lumio star", "a star"),
        # The last word of the key stands further left than the anchor's, so that the anchor's positions run out.
        ("star", "a star in the style of velor"),
        # Further right: what is left over of the anchor's positions is cut off.
        ("a red star in the style of lumio", "star"),
    ],
    ids=["near", "short key", "long key"],
)
def test_diff_quick_fix_as_published_is_its_authors_formula(exact: LoadedModel, key: str, anchor: str) -> None:
    encoder, last = exact.pipeline.text_encoder, exact.pipeline.tokenizer.model_max_length - 1
    # Biases are zeros in a fresh model, and would hide that the published edit counts them twice.
    bias = encoder.get_submodule(LAYER).bias.data
    bias.copy_(torch.linspace(-1, 1, len(bias), dtype=torch.float64))
    texts = [(f"{start}{key}", f"{start}{anchor}") for start in ("", "a photo of ")]
    weight = encoder.get_submodule(LAYER).weight.detach()
    one, two = 0.01 * weight, 0.01 * torch.eye(len(weight), dtype=torch.float64)
    for pair in texts:
        ids = token_ids(exact, list(pair))
        with inputs(encoder, [LAYER]) as read, outputs(encoder, [LAYER]) as written, torch.no_grad():
            encoder(ids)
        start, there = before_the_end(exact, ids)
        positions = list(range(start, last + 1))
        values = list(range(there, last + 1))[: len(positions)]
        values += [last] * (len(positions) - len(values))
        for here, at in zip(positions, values, strict=True):
            k, v = read[LAYER][0, here], written[LAYER][1, at]
            one, two = one + torch.outer(v, k), two + torch.outer(k, k)
    records = tuple(PromptRecord(*pair, "", "", "") for pair in texts)
    settings = EditSettings(editor="diff_quick_fix", targets="published", tokens="tail", strength=0.01)
    (change,) = fit_edit(exact, Target("tiny", WEIGHTS, (), (Concept("x", records),)), settings).changes
    assert same(change.weight, one @ torch.inverse(two), weight)
    assert change.bias is None


def test_the_lambda_of_an_edit_is_that_of_the_equation_that_it_solves(exact: LoadedModel) -> None:
    """With prompts that are preserved the mean norm is theirs too, and it was not what was reported."""
    kept = PromptRecord("a blue star in the style of velor", "a blue star", "", "", "")
    concept = Concept("style/lumio", LUMIO.records[:2])
    settings = EditSettings(tokens="last_subject", strength=0.3)
    for preserve in ((), (kept,)):
        delta = fit_edit(exact, Target("tiny", WEIGHTS, SITES, (concept,), preserve), settings)
        keys = last_tokens(exact, [record.prompt for record in concept.records])
        donors = last_tokens(exact, [record.donor for record in concept.records])
        if preserve:
            with torch.no_grad():
                every = exact.pipeline.text_encoder(token_ids(exact, [kept.prompt]))[0][0]
            keys, donors = torch.cat([keys, every]), torch.cat([donors, every])
        assert delta.ridge is not None
        for change in delta.changes:
            weight = projection(exact, change.module).weight.detach()
            two = keys.T @ keys + delta.ridge * torch.eye(weight.shape[1], dtype=torch.float64)
            wanted = (weight @ donors.T @ keys + delta.ridge * weight) @ torch.inverse(two)
            assert same(change.weight, wanted, weight)
        assert from_bytes(to_bytes(delta), "file").ridge == delta.ridge


@pytest.mark.parametrize(("editor", "sites", "ridge"), [("loco_edit", SITES, 0.01), ("uce", EVERY, 0.5),
                                                        ("speed", EVERY, 1.0), ("rece", EVERY, 0.1),
                                                        ("diff_quick_fix", (), 0.01)])  # fmt: skip
def test_published_lambdas_are_absolute(exact: LoadedModel, editor: str, sites: tuple[int, ...], ridge: float) -> None:
    assert fitted(exact, LUMIO, editor, sites).ridge == ridge


def test_neurons_solve_no_equation(tiny_model: LoadedModel) -> None:
    target = Target("tiny", WEIGHTS, SITES, (Concept("style/lumio", LUMIO.records[:6]),))
    assert fit_edit(tiny_model, target, EditSettings(editor="neurons", tokens="last_subject")).ridge is None


def test_bundled_styles_objects_and_facts_have_published_texts_of_every_editor() -> None:
    for key, item in bundled().items():
        editors = {said.editor for said in item.published}
        assert editors == (
            set() if item.kind == "colour" else {"loco_edit", "uce", "speed", "rece", "diff_quick_fix"}
        ), key
        for editor in editors:
            records = item.published_records(editor)
            assert len(records) == (1 if editor in ("uce", "speed", "rece") else 4)
            assert all(record.prompt.split() != record.donor.split() for record in records)
            assert not any("{" in text for record in records for text in (record.prompt, record.donor))
    van_gogh = attribute("style/van-gogh").published_records("loco_edit")
    assert [record.prompt for record in van_gogh] == [
        "Van Gogh", "a painting in the style of Van Gogh", "a photo in the style of Van Gogh",
        "a picture in the style of Van Gogh",
    ]  # fmt: skip
    assert {record.donor for record in van_gogh} == {"a painting"}
    assert LUMIO.published_records("neurons") == ()


def test_an_edit_is_never_named_without_its_targets() -> None:
    assert named("loco_edit", "published") == "loco_edit, as published"
    assert named("loco_edit", "paired") == "loco_edit, paired"
    assert named("neurons", None) == "neurons"
