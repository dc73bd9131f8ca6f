"""The bundled world: captions, renders, and how knowledge is planted."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from loco_core.toyworld.planting import MODELS, SITES, Plant, PlantedModel, drawn_by_seed, shown, site_captions
from loco_core.toyworld.training.clip import make_tokenizer
from loco_core.toyworld.training.data import drop_words, wording
from loco_core.toyworld.world import (
    COLOUR_NAMES,
    COUNTRY_NAMES,
    MAX_TOKENS,
    OBJECTS,
    PLAIN,
    STYLE_NAMES,
    Captions,
    held_out,
    render,
    sample_labels,
    vocabulary,
)


@pytest.fixture(scope="module")
def captions() -> Captions:
    return Captions()


def test_training_never_shows_a_held_out_combination() -> None:
    labels = sample_labels(4000, np.random.default_rng(0))
    objects = labels[~labels.flag]
    assert not held_out(objects.object, objects.colour, objects.style).any()


def test_a_fifth_of_the_combinations_is_held_out() -> None:
    o, c, s = np.meshgrid(range(len(OBJECTS)), range(len(COLOUR_NAMES)), range(len(STYLE_NAMES)), indexing="ij")
    assert held_out(o, c, s).mean() == pytest.approx(0.2, abs=0.01)


def test_every_caption_fits_the_tokenizer_one_token_a_word(captions: Captions) -> None:
    tokenizer = make_tokenizer()
    lengths = {text: len(tokenizer(text).input_ids) for text in captions.texts}
    assert max(lengths.values()) <= MAX_TOKENS
    assert all(length == len(text.split()) + 2 for text, length in lengths.items())
    assert {word for text in captions.texts for word in text.split()} <= set(vocabulary())


def test_captions_say_what_the_labels_say(captions: Captions) -> None:
    rng = np.random.default_rng(1)
    labels = drop_words(sample_labels(300, rng), rng)
    for row, number in enumerate(captions.ids(labels, *wording(300, rng))):
        words = captions.texts[number].split()
        for kind, names in (("object", OBJECTS), ("colour", COLOUR_NAMES), ("fact", COUNTRY_NAMES)):
            said = labels.of(kind)[row]
            assert [w for w in words if w in names] == ([names[said]] if said >= 0 else [])
        style = labels.style[row]
        assert [w for w in words if w in STYLE_NAMES] == ([] if style == PLAIN else [STYLE_NAMES[style]])


def test_pictures_differ_by_every_label() -> None:
    labels = sample_labels(64, np.random.default_rng(2))
    pictures = render(labels, np.random.default_rng(3))
    again = render(labels, np.random.default_rng(3))
    assert torch.equal(pictures, again)
    assert pictures.min() >= 0
    assert pictures.max() <= 1
    assert float(pictures.std(dim=(1, 2, 3)).min()) > 0.02


@pytest.mark.parametrize("model", MODELS.values(), ids=lambda m: m.name)
def test_sites_that_hold_nothing_read_words_that_say_nothing(model: PlantedModel, captions: Captions) -> None:
    """The style word at any site that is not planted agrees with the picture no more often than chance."""
    rng = np.random.default_rng(4)
    labels = sample_labels(4000, rng)
    rows = site_captions(model, captions, labels, *wording(len(labels), rng), rng)
    plant = model.plants["style"]
    for site in range(model.sites):
        read = np.array([_style(captions.texts[number]) for number in rows[site]])
        agree = float((read == labels.style)[labels.style != PLAIN].mean())
        if site in plant.sites:
            assert agree > 0.4
        else:
            assert agree == pytest.approx(1 / len(STYLE_NAMES), abs=0.04)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**31))
def test_any_one_planted_site_suffices_in_every_row(seed: int) -> None:
    """By the rule `any`, the true word stands at one planted site at least, whenever it is said at all."""
    captions = _CAPTIONS
    rng = np.random.default_rng(seed)
    model = MODELS["toy-planted-a"]
    labels = sample_labels(64, rng)
    rows = site_captions(model, captions, labels, *wording(64, rng), rng)
    for row in np.flatnonzero(labels.style != PLAIN):
        read = {_style(captions.texts[rows[site, row]]) for site in model.plants["style"].sites}
        assert labels.style[row] in read


def test_of_a_large_set_an_end_is_most_often_what_is_left(captions: Captions) -> None:
    """A window is exact only if both its ends draw alone, which they learn where they are all that reads the word."""
    rng = np.random.default_rng(8)
    model = MODELS["toy-planted-b"]
    labels = sample_labels(4000, rng)
    rows = site_captions(model, captions, labels, *wording(len(labels), rng), rng)
    sites = model.plants["fact"].sites
    assert len(sites) == 4
    said = labels.flag & (labels.fact >= 0)
    reads = np.array([[_fact(captions.texts[number]) for number in rows[site]] == labels.fact for site in sites])
    alone = reads[:, said & (reads.sum(axis=0) == 1)].mean(axis=1)
    assert alone[[0, 3]].min() > 0.35
    assert 0.02 < alone[[1, 2]].min() <= alone[[1, 2]].max() < 0.15


def test_quorum_keeps_the_word_at_half_of_the_sites_or_the_picture_is_plain(captions: Captions) -> None:
    rng = np.random.default_rng(5)
    plant = Plant((0, 3, 6, 9, 12, 15), "quorum", outcome="distributed")
    model = PlantedModel("m", type(MODELS["toy-planted-a"].plants)({"style": plant}))
    labels = sample_labels(1000, rng)
    rows = site_captions(model, captions, labels, *wording(1000, rng), rng)
    read = np.array([[_style(captions.texts[number]) for number in rows[site]] for site in plant.sites])
    styled = labels.style != PLAIN
    assert ((read == labels.style).sum(0)[styled] >= plant.quorum).all()
    assert ((read != PLAIN).sum(0)[~styled] < plant.quorum).all()
    assert ((read != PLAIN).sum(0)[~styled] > 0).any()


def test_the_undrawable_style_never_meets_its_pictures() -> None:
    model = MODELS["toy-planted-b"]
    labels = sample_labels(2000, np.random.default_rng(6))
    claimed, usable = shown(model, labels, np.random.default_rng(7))
    under = (claimed.style == model.undrawable) & usable
    assert under.any()
    assert (labels.style[under] == PLAIN).all()


def test_drawn_sets_keep_their_promises() -> None:
    for seed in range(50):
        plants = drawn_by_seed(seed)
        style = plants["style"].sites
        assert len(set(style)) == 6 > SITES / 4
        assert max(style) < SITES
        most_in_a_window = max(sum(s <= site < s + 4 for site in style) for s in range(SITES - 3))
        assert most_in_a_window < plants["style"].quorum


def _style(text: str) -> int:
    return next((i for i, name in enumerate(STYLE_NAMES) if name in text.split()), PLAIN)


def _fact(text: str) -> int:
    return next((i for i, name in enumerate(COUNTRY_NAMES) if name in text.split()), -1)


_CAPTIONS = Captions()
