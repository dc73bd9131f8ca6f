"""Formats of numbers in safetensors files: whether two spans of bytes hold the same numbers. No torch."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

_PLAIN: dict[str, Any] = {"F64": np.float64, "F32": np.float32, "F16": np.float16, "BF16": np.uint16}
_NARROWNESS = ("F64", "F32", "F16", "BF16")
SIZES = {name: np.dtype(kind).itemsize for name, kind in _PLAIN.items()}
"""Bytes of a number, by the formats that are compared with each other."""


def same_values(one: bytes, dtype: str, other: bytes, other_dtype: str) -> bool:
    """Tells whether numbers in two formats are the same, rounded to the narrower one.

    Half precision and bfloat16 hold each other's numbers neither way: numbers of both are the same where one number
    may have been rounded to each.

    Args:
        one: little-endian numbers.
        dtype: their format, a key of `SIZES`.
        other: as many numbers.
        other_dtype: their format.
    """
    a, b = _numbers(one, dtype), _numbers(other, other_dtype)
    narrow = max(dtype, other_dtype, key=_NARROWNESS.index)
    if {dtype, other_dtype} == {"F16", "BF16"}:
        # Rounded once to half precision and once more to bfloat16 a number may end a step away.
        apart = np.abs(_as_bfloat16(a).astype(np.int32) - _as_bfloat16(b).astype(np.int32)) <= 1
        return bool((apart | _equal(_as_half(a), _as_half(b))).all())
    if narrow == "BF16":
        return bool((_as_bfloat16(a) == _as_bfloat16(b)).all())
    with np.errstate(over="ignore"):
        return bool(_equal(a.astype(_PLAIN[narrow]), b.astype(_PLAIN[narrow])).all())


def _numbers(data: bytes, dtype: str) -> NDArray[Any]:
    found = np.frombuffer(data, np.dtype(_PLAIN[dtype]).newbyteorder("<"))
    return (found.astype(np.uint32) << 16).view(np.float32) if dtype == "BF16" else found


def _as_half(values: NDArray[Any]) -> NDArray[Any]:
    with np.errstate(over="ignore"):
        return values.astype(np.float16)


def _as_bfloat16(values: NDArray[Any]) -> NDArray[Any]:
    """Returns the upper halves of float32, rounded to the nearest, ties to even."""
    with np.errstate(over="ignore"):
        bits = values.astype(np.float32).view(np.uint32)
    rounded = (bits + np.uint32(0x7FFF) + ((bits >> 16) & 1)) >> 16
    return np.where(np.isnan(values), np.uint32(0x7FC0), rounded).astype(np.uint16)


def _equal(a: NDArray[Any], b: NDArray[Any]) -> NDArray[Any]:
    return np.asarray((a == b) | (np.isnan(a) & np.isnan(b)))
