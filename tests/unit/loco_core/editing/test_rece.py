"""RECE against its published systems, written down in numpy projection by projection."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from loco_core.attributes import attribute
from loco_core.diffusion.model import LoadedModel, load_model
from loco_core.editing.base import Concept, EditSettings, Target, fit_edit
from loco_core.editing.deltas import applied, projection
from loco_core.editing.editors import rece
from loco_core.editing.editors.rece import derived, sum_of_squares
from loco_core.errors import EditError
from loco_core.types import Attribute

Matrix = np.ndarray[tuple[int, int], np.dtype[np.float64]]
WEIGHTS = "w" * 64
EVERY = tuple(range(16))
LUMIO, VELOR, QUADRI = (attribute(f"style/{name}") for name in ("lumio", "velor", "quadri"))


@pytest.fixture(scope="module")
def exact(tiny_pipeline: Path) -> LoadedModel:
    """The tiny model in float64, so that equal formulas give equal weights."""
    return load_model("stable_diffusion", str(tiny_pipeline), None, "float64", "cpu")


def least_squares(edited: Sequence[Matrix], original: Sequence[Matrix], texts: Matrix) -> Matrix:
    """The embeddings that edited weights read as the original ones read texts, regularized, by a plain solver."""
    width = texts.shape[1]
    left = np.concatenate([*edited, 1e-3**0.5 * np.eye(width)])
    right = np.concatenate([*(weight @ texts.T for weight in original), np.zeros((width, len(texts)))])
    found: Matrix = np.linalg.lstsq(left, right, rcond=None)[0].T
    return found


@given(st.integers(1, 4), st.integers(1, 5), st.integers(0, 1000))
def test_derived_embeddings_solve_the_stated_least_squares(projections: int, n: int, seed: int) -> None:
    rng, width = np.random.default_rng(seed), 8
    original = [rng.normal(size=(6, width)) for _ in range(projections)]
    change = np.eye(width) - 0.9 * np.outer(*(rng.normal(size=(2, width)) / width**0.5))
    texts = rng.normal(size=(n, width))
    gram = sum_of_squares([torch.from_numpy(weight) for weight in original])
    found = derived(gram, torch.from_numpy(change), torch.from_numpy(texts)).numpy()
    wanted = least_squares([weight @ change for weight in original], original, texts)
    assert np.linalg.norm(found - wanted) <= 1e-6 * np.linalg.norm(wanted)


def embeddings(model: LoadedModel, text: str) -> tuple[Matrix, int]:
    """All positions of a text, by the text encoder alone, and the one before its end."""
    tokenizer = model.pipeline.tokenizer
    ids = tokenizer([text], padding="max_length", max_length=tokenizer.model_max_length, return_tensors="pt").input_ids
    with torch.no_grad():
        found: Matrix = model.pipeline.text_encoder(ids)[0][0].numpy()
    return found, int((ids[0] == tokenizer.eos_token_id).nonzero()[0]) - 1


def mapped(weight: Matrix, keys: Matrix, anchors: Matrix, kept: Matrix, strength: float, weighs: float) -> Matrix:
    """UCE's system of one projection with its inverse: what is edited weighs 1."""
    one = strength * weight + weight @ anchors.T @ keys + weighs * weight @ kept.T @ kept
    two = strength * np.eye(weight.shape[1]) + keys.T @ keys + weighs * kept.T @ kept
    found: Matrix = one @ np.linalg.inv(two)
    return found


@pytest.mark.parametrize("preserved", [(), (VELOR, QUADRI), (VELOR,) * 10], ids=["", "preserving", "many"])
@pytest.mark.parametrize("anchor", ["shape", "a red shape"])
def test_rece_as_published_is_its_authors_formula(
    exact: LoadedModel, preserved: tuple[Attribute, ...], anchor: str
) -> None:
    said = replace(LUMIO.published[0], editor="rece", pairs=(("lumio", anchor),))
    item = replace(LUMIO, published=(said,))
    kept_records = tuple(record for other in preserved for record in other.published_records("rece"))
    settings = EditSettings(editor="rece", targets="published", tokens="tail", strength=0.1)
    concept = Concept(item.key, item.published_records("rece"))
    delta = fit_edit(exact, Target("tiny", WEIGHTS, EVERY, (concept,), kept_records), settings)

    (key, at), (value, to) = embeddings(exact, "lumio"), embeddings(exact, anchor)
    farthest = max(at, to)
    kept = np.concatenate([embeddings(exact, text)[0] for text in ("", *(other.name for other in preserved))])
    paths = [path for site in exact.sites for path in (site.key_path, site.value_path)]
    original = [projection(exact, path).weight.detach().numpy() for path in paths]
    length = len(key)
    tail = key[at : length - (farthest - at)], value[to : length - (farthest - to)]
    # Where the anchor's positions run out, its last one stands for the rest: here as in the other published tails.
    rest = length - at - len(tail[0])
    tail = np.concatenate([tail[0], key[length - rest :]]), np.concatenate([tail[1], value[[-1] * rest]])
    edited = [mapped(weight, *tail, kept, 0.5, max(0.1, 1 / (1 + len(preserved)))) for weight in original]
    regained = least_squares(edited, original, key)
    edited = [mapped(weight, regained, value, kept, 0.1, 0.1) for weight in edited]
    assert [change.module for change in delta.changes] == paths
    for change, before, wanted in zip(delta.changes, original, edited, strict=True):
        assert change.weight is not None
        assert np.linalg.norm(change.weight.numpy() - wanted) <= 1e-6 * np.linalg.norm(wanted - before)
    assert delta.ridge == 0.1


def test_what_brings_the_concept_back_brings_it_back_less_after_a_round(
    exact: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    concept = Concept(LUMIO.key, LUMIO.records[:2])
    target = Target("tiny", WEIGHTS, EVERY, (concept,))
    texts, missed = embeddings(exact, LUMIO.records[0].prompt)[0], []
    paths = [site.value_path for site in exact.sites]
    original = [projection(exact, path).weight.detach().numpy().copy() for path in paths]
    for rounds in (0, 1, 2):
        monkeypatch.setattr(rece, "ROUNDS", rounds)
        settings = EditSettings(editor="rece", tokens="tail", strength=0.1)
        with applied(exact, fit_edit(exact, target, settings), WEIGHTS):
            edited = [projection(exact, path).weight.detach().numpy().copy() for path in paths]
        regained = least_squares(edited, original, texts)
        missed.append(
            sum(
                float(np.linalg.norm(after @ regained.T - before @ texts.T))
                for after, before in zip(edited, original, strict=True)
            )
        )
    assert missed[1] > 1.2 * missed[0]
    assert missed[2] > 1.2 * missed[1]


def test_one_embedding_is_derived_for_all_sites_that_read_the_same(exact: LoadedModel) -> None:
    concept = Concept(LUMIO.key, LUMIO.records[:2])
    settings = EditSettings(editor="rece", tokens="tail", strength=0.1)
    both = fit_edit(exact, Target("tiny", WEIGHTS, (8, 9), (concept,)), settings).changes
    alone = fit_edit(exact, Target("tiny", WEIGHTS, (9,), (concept,)), settings).changes
    assert not torch.allclose(both[2].weight, alone[0].weight, rtol=1e-6)  # type: ignore[arg-type]


def test_it_is_refused_where_text_and_image_attend_to_each_other(tiny_model: LoadedModel) -> None:
    joint = replace(tiny_model, facts=replace(tiny_model.facts, stream="evolving"))
    target = Target("tiny", WEIGHTS, EVERY, (Concept(LUMIO.key, LUMIO.records[:1]),))
    with pytest.raises(EditError, match=r"rece: .* text and image attend to each other"):
        fit_edit(joint, target, EditSettings(editor="rece", tokens="tail", strength=0.1))
