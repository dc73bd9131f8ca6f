from __future__ import annotations

import math

import pytest
import torch

from loco_core.types import Generation
from orchestrator.stages.pictures import is_valid

PICTURE = torch.linspace(0, 1, 3 * 8 * 8).reshape(3, 8, 8)


def holding(value: float) -> torch.Tensor:
    picture = PICTURE.clone()
    picture[1, 2, 3] = value
    return picture


@pytest.mark.parametrize(
    ("picture", "valid"),
    [
        (PICTURE, True),
        (holding(math.nan), False),
        (holding(math.inf), False),
        (torch.zeros(3, 8, 8), False),
        (torch.ones(3, 8, 8), False),
        (torch.full((3, 8, 8), 0.4), False),
        (PICTURE[:, :4], False),
        (PICTURE[:1], False),
        (PICTURE.repeat(1, 2, 2), False),
    ],
    ids=["a picture", "NaN", "infinite", "black", "white", "grey", "cut", "one channel", "too large"],
)
def test_only_a_picture_of_the_size_that_was_asked_for_is_valid(picture: torch.Tensor, valid: bool) -> None:
    assert is_valid(picture, Generation(height=8, width=8), 1) == valid


def test_a_second_stage_makes_pictures_larger_than_was_asked_of_the_first() -> None:
    for asked in (Generation(height=4, width=4), Generation(width=4), Generation()):
        assert is_valid(PICTURE, asked, 2)
    assert not is_valid(PICTURE, Generation(height=8, width=8), 2)
