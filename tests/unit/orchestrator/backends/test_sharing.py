from __future__ import annotations

import hypothesis.strategies as st
import pytest
from hypothesis import given

from orchestrator.backends.ray.sharing import Claim, shared_out


@pytest.mark.parametrize(
    ("room", "claims", "shares"),
    [
        (8, {"a": Claim(1, 99, 1), "b": Claim(1, 99, 1)}, {"a": 4, "b": 4}),
        (8, {"a": Claim(3, 99, 1), "b": Claim(1, 99, 1)}, {"a": 6, "b": 2}),
        (8, {"a": Claim(3, 99, 1), "b": Claim(1, 0, 1)}, {"a": 8, "b": 1}),
        (9, {"a": Claim(1, 2, 1), "b": Claim(1, 99, 1), "c": Claim(1, 3, 1)}, {"a": 2, "b": 4, "c": 3}),
        (8, {"a": Claim(1, 99, 2), "b": Claim(1, 99, 1)}, {"a": 2, "b": 4}),
        (1, {"a": Claim(1, 9, 1), "b": Claim(5, 9, 1)}, {"a": 1, "b": 1}),
    ],
)  # fmt: skip
def test_shares_follow_weights_as_far_as_there_is_work(
    room: int, claims: dict[str, Claim], shares: dict[str, int]
) -> None:
    assert shared_out(room, claims) == shares


@given(
    room=st.integers(1, 200),
    claims=st.lists(st.tuples(st.sampled_from([0.5, 1.0, 2.0, 3.0]), st.integers(0, 300)), min_size=1, max_size=5),
)
def test_no_room_is_left_while_somebody_wants_it(room: int, claims: list[tuple[float, int]]) -> None:
    found = shared_out(room, {str(n): Claim(weight, wanted, 1) for n, (weight, wanted) in enumerate(claims)})
    wanted = sum(count for _, count in claims)
    used = sum(min(found[str(n)], count) for n, (_, count) in enumerate(claims))
    assert used >= min(room, wanted)
    hungry = [n for n, (_, count) in enumerate(claims) if found[str(n)] < count]
    for n in hungry:
        # One worker everybody has, whatever its weight.
        for m in hungry if found[str(n)] > 1 else ():
            # Nobody could get one more without having more for its weight than another one has now.
            assert found[str(n)] / claims[n][0] <= (found[str(m)] + 1) / claims[m][0]
