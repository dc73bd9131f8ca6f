from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from loco_core.editing.deltas import from_bytes
from loco_core.errors import EditError


class Bomb:
    """A pickle that makes a file when it is read."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[[Path], None], tuple[Path]]:
        return Path.touch, (self.path,)


def test_an_edit_that_is_a_pickle_is_refused_unread(tmp_path: Path) -> None:
    made = tmp_path / "made"
    bomb = tmp_path / "edit.safetensors"
    torch.save({"weight": Bomb(made)}, bomb)
    for data in (bomb.read_bytes(), pickle.dumps(Bomb(made))):
        with pytest.raises(EditError, match=r"edit\.safetensors is no safetensors file") as error:
            from_bytes(data, "edit.safetensors")
        assert "\n" not in str(error.value)
    assert not made.exists()
