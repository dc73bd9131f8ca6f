"""SPEED against its published closed form, written down in numpy with the inverses of the paper."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from loco_core.attributes import attribute
from loco_core.diffusion.model import LoadedModel, load_model
from loco_core.editing.base import Concept, EditSettings, Retain, Target, editor_info, fit_edit
from loco_core.editing.deltas import WeightDelta, projection
from loco_core.editing.editors.speed import invariants, refined, span
from loco_core.editing.ridge import solve
from loco_core.errors import EditError
from loco_core.types import Attribute, PromptRecord

Matrix = np.ndarray[tuple[int, int], np.dtype[np.float64]]
WEIGHTS = "w" * 64
EVERY = tuple(range(16))
LUMIO = attribute("style/lumio")
OTHERS = tuple(attribute(f"style/{name}") for name in ("velor", "quadri", "morvane", "sorelle", "bastide"))


@pytest.fixture(scope="module")
def exact(tiny_pipeline: Path) -> LoadedModel:
    """The tiny model in float64, so that equal formulas give equal weights."""
    return load_model("stable_diffusion", str(tiny_pipeline), None, "float64", "cpu")


def closed_form(
    weight: Matrix, keys: Matrix, anchors: Matrix, retained: Matrix, fixed: Matrix, strength: float, least: float = 0.1
) -> Matrix:
    """Lagrange's solution of eq. 10 (appendix B.3), columns as in the paper; sums over concepts are means."""
    one, star, two = keys.T, anchors.T, fixed.T
    u, sizes, _ = np.linalg.svd(retained.T @ retained / max(len(retained), 1))
    null = u[:, sizes < least]
    p, identity, n = null @ null.T, np.eye(weight.shape[1]), len(keys)
    m = np.linalg.inv(one @ one.T / n @ p + strength * identity)
    inner = np.linalg.inv(two.T @ p @ m @ two)
    change: Matrix = weight @ (star - one) @ one.T / n @ p @ (identity - m @ two @ inner @ two.T @ p) @ m
    return change


@given(st.integers(1, 3), st.integers(0, 6), st.floats(0.05, 10), st.integers(0, 1000))
def test_the_solution_is_the_published_closed_form_and_leaves_what_is_retained(
    n: int, kept: int, strength: float, seed: int
) -> None:
    rng, width = np.random.default_rng(seed), 16
    keys, anchors, fixed = (rng.normal(size=(count, width)) for count in (n, n, 2))
    retained, weight = 3 * rng.normal(size=(kept, width)), rng.normal(size=(5, width))
    held = span(torch.from_numpy(retained), torch.from_numpy(fixed), 0.1)
    free = torch.from_numpy(keys) @ (torch.eye(width, dtype=torch.float64) - held.T @ held)
    update = solve(free, torch.from_numpy(anchors - keys), strength * n, absolute=True).update
    change = weight @ update.numpy()
    wanted = closed_form(weight, keys, anchors, retained, fixed, strength)
    assert np.linalg.norm(change - wanted) <= 1e-7 * np.linalg.norm(wanted)
    for unchanged in (retained, fixed):
        assert np.linalg.norm(unchanged @ change.T) <= 1e-12 * np.linalg.norm(change) * (1 + np.linalg.norm(unchanged))


def test_directions_in_which_retained_texts_hardly_differ_are_free() -> None:
    retained = torch.tensor([[3.0, 0.0, 0.0], [3.0, 0.5, 0.0]], dtype=torch.float64)
    none = retained[:0]
    assert len(span(retained, none, 0.1)) == 1
    assert len(span(retained, none, 0.01)) == 2
    assert len(span(retained, torch.tensor([[0.0, 0.0, 1e-3]], dtype=torch.float64), 0.1)) == 2


def last_tokens(model: LoadedModel, texts: list[str]) -> Matrix:
    """Embeddings of the token before each text's end, by the text encoder alone."""
    tokenizer = model.pipeline.tokenizer
    ids = tokenizer(texts, padding="max_length", max_length=tokenizer.model_max_length, return_tensors="pt").input_ids
    with torch.no_grad():
        embeds = model.pipeline.text_encoder(ids)[0]
    ends = [int((row == tokenizer.eos_token_id).nonzero()[0]) for row in ids]
    found: Matrix = np.stack([row[end - 1].numpy() for row, end in zip(embeds, ends, strict=True)])
    return found


def empty_text(model: LoadedModel) -> Matrix:
    tokenizer = model.pipeline.tokenizer
    ids = tokenizer([""], padding="max_length", max_length=tokenizer.model_max_length, return_tensors="pt").input_ids
    with torch.no_grad():
        found: Matrix = model.pipeline.text_encoder(ids)[0][0].numpy()
    return found


def fitted(model: LoadedModel, retain: Retain, *kept: Attribute) -> WeightDelta:
    settings = EditSettings(
        editor="speed", targets="published", tokens="last_subject", strength=1.0, preserve=16, retain=retain
    )
    preserve = tuple(record for item in kept for record in item.published_records("speed"))
    concept = Concept(LUMIO.key, LUMIO.published_records("speed"))
    return fit_edit(model, Target("tiny", WEIGHTS, EVERY, (concept,), preserve), settings)


@pytest.mark.parametrize("retain", ["affected", "all"])
@pytest.mark.parametrize("kept", [(), OTHERS], ids=["", "preserving"])
def test_speed_as_published_is_its_authors_formula(
    exact: LoadedModel, retain: Retain, kept: tuple[Attribute, ...]
) -> None:
    key, anchor, names = last_tokens(exact, ["lumio"]), last_tokens(exact, ["shape"]), [item.name for item in kept]
    texts = last_tokens(exact, names) if kept else key[:0]
    fixed = invariants(torch.from_numpy(empty_text(exact))).numpy()
    delta = fitted(exact, retain, *kept)
    assert [change.module for change in delta.changes] == [site.value_path for site in exact.sites]
    for change in delta.changes:
        weight = projection(exact, change.module).weight.detach().numpy()
        # Section 4.1, with the inverse.
        erased = weight @ (anchor - key).T @ key @ np.linalg.inv(np.eye(weight.shape[1]) + key.T @ key)
        shifts = np.linalg.norm(texts @ erased.T, axis=1)
        mine = texts if retain == "all" or not kept else texts[shifts >= shifts.mean()]
        retained = refined(*map(torch.from_numpy, (texts, weight, erased)), retain).numpy()
        assert np.allclose(retained[: len(mine)], mine, rtol=0, atol=1e-12)
        wanted = closed_form(weight, key, anchor, retained, fixed, 1.0)
        assert change.weight is not None
        moved = change.weight.numpy() - weight
        assert np.linalg.norm(moved - wanted) <= 1e-6 * np.linalg.norm(wanted)
        for unchanged in (mine, fixed):
            assert np.linalg.norm(unchanged @ moved.T) <= 1e-9 * np.linalg.norm(unchanged @ weight.T)
        # Towards the anchor, as far as what is held leaves it free.
        before = np.linalg.norm((key - anchor) @ weight.T)
        assert np.linalg.norm(key @ change.weight.numpy().T - anchor @ weight.T) < 0.95 * before


def test_texts_that_an_edit_hardly_moves_are_left_to_it_as_published_and_kept_on_demand(exact: LoadedModel) -> None:
    texts, moved = last_tokens(exact, [item.name for item in OTHERS]), {}
    for retain in ("affected", "all"):
        change = fitted(exact, retain, *OTHERS).changes[0]
        assert change.weight is not None
        weight = projection(exact, change.module).weight.detach().numpy()
        moved[retain] = np.linalg.norm(texts @ (change.weight.numpy() - weight).T, axis=1)
    assert 0 < (moved["affected"] > 1e-6).sum() < len(texts)
    assert (moved["all"] < 1e-9).all()


def test_copies_of_retained_texts_differ_along_the_direction_that_a_weight_shortens_most() -> None:
    rng = np.random.default_rng(0)
    texts, erased = torch.from_numpy(rng.normal(size=(3, 4))), torch.from_numpy(rng.normal(size=(6, 4)))
    weight = torch.from_numpy(rng.normal(size=(6, 4)) * [5.0, 4.0, 3.0, 1e-6])
    found = refined(texts, weight, erased, "all")
    assert len(texts) < len(found) < 11 * len(texts)
    assert torch.equal(found, refined(texts, weight, erased, "all"))
    noise = found[len(texts) :]
    assert all(min(float((row - text)[:3].norm()) for text in texts) < 1e-5 for row in noise)
    shifts = torch.linalg.norm(noise @ erased.T, dim=1)
    assert float(shifts.min()) > 0
    assert len({round(float(row[3]), 6) for row in noise}) == len(noise)


def test_paired_edits_keep_retained_prompts_where_they_say_their_attribute(exact: LoadedModel) -> None:
    """At the last word of it; what is edited and what is retained are read in other places of their prompts."""
    concept, said = Concept(LUMIO.key, LUMIO.records[:3]), "a blue star in the style of velor"
    kept = (PromptRecord(said, "a blue star", "", "", ""),)
    settings = EditSettings(editor="speed", tokens="last_subject", strength=0.5, retain="all")
    delta = fit_edit(exact, Target("tiny", WEIGHTS, EVERY, (concept,), kept), settings)
    keys = last_tokens(exact, [record.prompt for record in concept.records])
    donors = last_tokens(exact, [record.donor for record in concept.records])
    fixed = invariants(torch.from_numpy(empty_text(exact))).numpy()
    for change in delta.changes:
        assert change.weight is not None
        weight = projection(exact, change.module).weight.detach().numpy()
        moved = change.weight.numpy() - weight
        assert np.linalg.norm(last_tokens(exact, [said]) @ moved.T) <= 1e-9 * np.linalg.norm(keys @ moved.T)
        erased = weight @ (donors - keys).T @ keys / 3 @ np.linalg.inv(np.eye(weight.shape[1]) + keys.T @ keys / 3)
        retained = refined(*map(torch.from_numpy, (last_tokens(exact, [said]), weight, erased)), "all").numpy()
        wanted = closed_form(weight, keys, donors, retained, fixed, 0.5, np.square(retained).sum(1).mean() / 7680)
        assert np.linalg.norm(moved - wanted) <= 1e-6 * np.linalg.norm(wanted)


def test_what_retains_everything_is_one_clear_line(exact: LoadedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    concept = Concept(LUMIO.key, LUMIO.records[:1])
    everything = torch.eye(exact.pipeline.unet.config.cross_attention_dim, dtype=torch.float64)
    monkeypatch.setattr("loco_core.editing.token_pairs.read_subjects", lambda *_: (everything,) * len(EVERY))
    settings = EditSettings(editor="speed", tokens="last_subject", strength=1.0, retain="all")
    with pytest.raises(EditError, match=r"retained texts read at .*to_v leaves no direction free.*preserve fewer"):
        fit_edit(exact, Target("tiny", WEIGHTS, EVERY, (concept,), LUMIO.records[1:2]), settings)


def test_it_is_refused_where_text_and_image_attend_to_each_other(tiny_model: LoadedModel) -> None:
    joint = replace(tiny_model, facts=replace(tiny_model.facts, stream="evolving"))
    target = Target("tiny", WEIGHTS, EVERY, (Concept(LUMIO.key, LUMIO.records[:1]),))
    with pytest.raises(EditError, match=r"speed: .* text and image attend to each other"):
        fit_edit(joint, target, EditSettings(editor="speed", tokens="last_subject", strength=1.0))
    assert not editor_info("uce").fixed_text
