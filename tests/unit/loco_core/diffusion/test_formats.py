"""Numbers in two formats, as torch rounds them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from loco_core.diffusion.formats import same_values

FORMATS = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
PAIRS = [(one, other) for one in FORMATS for other in FORMATS if one != other]
VALUES = st.lists(st.floats(width=32, allow_nan=True), min_size=1, max_size=8)


def data(values: torch.Tensor, name: str) -> bytes:
    found = values.to(FORMATS[name])
    return found.view(torch.int16).numpy().tobytes() if name == "BF16" else found.numpy().tobytes()


@pytest.mark.parametrize(("one", "other"), PAIRS)
@given(values=VALUES)
def test_a_number_rounded_to_two_formats_is_the_same(one: str, other: str, values: list[float]) -> None:
    tensor = torch.tensor(np.array(values, np.float32))
    if {one, other} == {"F16", "BF16"}:
        # Beyond its range half precision has infinity where bfloat16 has a number.
        tensor = tensor.clamp(-60000, 60000)
    assert same_values(data(tensor, one), one, data(tensor, other), other)


@pytest.mark.parametrize(("one", "other"), PAIRS)
@given(value=st.floats(0.0078125, 1024, width=32), share=st.floats(0.03, 0.5))
def test_a_number_that_differs_by_more_than_rounding_is_another(
    one: str, other: str, value: float, share: float
) -> None:
    here, there = (torch.tensor([1.0, each]) for each in (value, value * (1 + share)))
    assert not same_values(data(here, one), one, data(there, other), other)


def test_the_wider_one_is_rounded_to_the_nearest_and_no_further() -> None:
    step = 2.0**-10
    for value, same in ((1 + step / 4, True), (1 + step / 2, True), (1 + 0.51 * step, False)):
        assert same_values(data(torch.tensor([value]), "F32"), "F32", data(torch.tensor([1.0]), "F16"), "F16") == same
