"""Scorers: the bundled CLIP and the judge, on rendered pictures whose content is known."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from loco_core.errors import ModelError
from loco_core.scoring.base import load_judge, load_scorer
from loco_core.toyworld import CLIP, JUDGE, WEIGHTS
from loco_core.toyworld.judge import Judge
from loco_core.toyworld.world import KINDS, OBJECTS, STYLE_NAMES, Labels, render, sample_labels
from tests.support.folders import lacking


@pytest.fixture(scope="module")
def pictures() -> tuple[torch.Tensor, Labels]:
    rng = np.random.default_rng(8)
    labels = sample_labels(200, rng)
    return render(labels, rng), labels


def test_clip_prefers_the_text_that_fits(pictures: tuple[torch.Tensor, Labels]) -> None:
    images, labels = pictures
    scorer = load_scorer(CLIP, None, "cpu")
    # A sentence without style words is of a plain picture.
    rows = np.flatnonzero(~labels.flag & (labels.style == 0))
    scores = scorer.score(scorer.embed_images(images), [f"a {name}" for name in OBJECTS])
    assert (scores[rows].argmax(1) == labels.object[rows]).mean() > 0.8


def test_the_judge_sees_what_is_there(pictures: tuple[torch.Tensor, Labels]) -> None:
    images, labels = pictures
    judge = load_judge(JUDGE, "cpu")
    assert isinstance(judge, Judge)
    seen = judge.embed_images(images)
    for kind, names in KINDS.items():
        there = labels.of(kind) >= 0
        verdict = np.array(judge.name(seen, kind))[there]
        assert (verdict == np.array(names)[labels.of(kind)[there]]).mean() > 0.85


def test_the_judge_as_a_scorer(pictures: tuple[torch.Tensor, Labels]) -> None:
    images, labels = pictures
    judge = load_scorer(JUDGE, None, "cpu")
    scores = judge.score(judge.embed_images(images), [f"a shape in the style of {name}" for name in STYLE_NAMES[1:]])
    styled = labels.style > 0
    assert (scores[styled].argmax(1) + 1 == labels.style[styled]).mean() > 0.85


def test_a_judge_of_which_weights_are_missing_is_refused(tmp_path: Path) -> None:
    shutil.copytree(WEIGHTS / "judge", tmp_path / "judge")
    lacking(".", "classifier.1.weight")(tmp_path / "judge")
    with pytest.raises(ModelError, match=r"lack classifier\.1\.weight of ResNetForImageClassification"):
        Judge(str(tmp_path / "judge"), None, "cpu")


def test_a_folder_without_a_model_is_one_clean_line(tmp_path: object) -> None:
    with pytest.raises(ModelError, match="cannot load") as error:
        load_scorer(str(tmp_path), None, "cpu")
    assert "\n" not in str(error.value)
