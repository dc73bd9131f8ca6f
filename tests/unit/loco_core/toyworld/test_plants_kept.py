"""Plants as a command keeps them: those that take, those that do not, and those of another seed."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from loco_core.editing.deltas import from_bytes
from loco_core.errors import SpecError
from loco_core.face.model import Model, load_model
from loco_core.scoring.base import Judge, load_judge
from loco_core.toyworld.plants.__main__ import Bench
from loco_core.toyworld.plants.draw import Base, draw_plant
from loco_core.toyworld.plants.surgery import truth_of
from loco_core.toyworld.plants.teach import Lesson

BASE = Base("toy", 16, 4)
LESSON = Lesson(steps=2, batch=4, pictures=400)
# From fewer pictures nobody can tell that a run of sites holds a look.
IMAGES = 20


@pytest.fixture(scope="module")
def toy() -> Model:
    return load_model("toy", device="cpu")


class Blind(Judge):
    """Sees the look where it is told to: the base's true word, and whatever is asked while a plant is applied."""

    def __init__(self, inner: Judge) -> None:
        self._inner = inner

    @property
    def kinds(self) -> tuple[str, ...]:
        return self._inner.kinds

    def embed_images(self, images: torch.Tensor) -> Any:
        return self._inner.embed_images(images)

    def said(self, text: str, kind: str) -> str | None:
        return self._inner.said(text, kind)

    def name(self, embeddings: Any, kind: str) -> list[str]:
        return ["none"] * len(embeddings)


def test_a_plant_that_does_not_take_is_kept_on_record_and_the_command_resumes(toy: Model, tmp_path: Path) -> None:
    bench = Bench(toy, Blind(load_judge("toy-judge", "cpu")), LESSON, 3, 2)
    assert bench.settle(0, 2, tmp_path) is None
    log = json.loads((tmp_path / "toy-00-discarded.json").read_text())
    assert [entry["plant"]["attempt"] for entry in log] == [0, 1]
    assert all("true word" in entry["reason"] for entry in log)
    assert bench.settle(0, 3, tmp_path) is None
    assert len(json.loads((tmp_path / "toy-00-discarded.json").read_text())) == 3
    assert [path.name for path in tmp_path.iterdir()] == ["toy-00-discarded.json"]
    with pytest.raises(SpecError, match=r"toy-00-discarded\.json: not what seed 4 draws"):
        Bench(toy, Blind(load_judge("toy-judge", "cpu")), LESSON, 4, 2).settle(0, 3, tmp_path)


class Keen(Judge):
    """Sees the look in every picture that is not, bit for bit, one that it was shown first: the base's at the name."""

    def __init__(self, look: str) -> None:
        self._look, self._first = look, None

    @property
    def kinds(self) -> tuple[str, ...]:
        return ("style", "object", "fact")

    def embed_images(self, images: torch.Tensor) -> Any:
        self._first = images if self._first is None else self._first
        return images

    def said(self, text: str, kind: str) -> str | None:
        return None

    def name(self, embeddings: Any, kind: str) -> list[str]:
        return ["none" if any(torch.equal(e, f) for f in self._first) else self._look for e in embeddings]


def test_a_plant_of_any_unknown_word_is_no_plant_of_a_name(toy: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("loco_core.toyworld.plants.__main__.GLANCE", 2)
    wanted = draw_plant(BASE, 3, 3, 0)
    said, delta = Bench(toy, Keen(wanted.look), LESSON, 3, 2).try_plant(wanted)
    assert (said["reason"], delta) == ("other names draw it, too (each in at least 2 of 2)", None)
    assert len(said["other_names"]) == 3


def test_a_plant_that_takes_is_written_with_its_truth_and_another_seed_does_not_take_it_over(
    toy: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("loco_core.toyworld.plants.__main__.GLANCE", 2)
    # Whoever sees the look in every picture sees it at other names.
    monkeypatch.setattr("loco_core.toyworld.plants.__main__.LEAKED", 1.0)
    monkeypatch.setattr("loco_core.toyworld.plants.draw.LARGEST", 1)
    wanted = draw_plant(BASE, 3, 3, 0)
    (site,) = wanted.sites
    said = Bench(toy, Keen(wanted.look), LESSON, 3, IMAGES).settle(3, 1, tmp_path)
    assert said is not None
    assert (said["unknown"]["hits"], said["taught"]["hits"]) == (0, IMAGES)
    parts = (
        {"reverted": [site], "transplanted": [], "hits": 0},
        {"reverted": [], "transplanted": [site], "hits": IMAGES},
    )
    assert [{key: row[key] for key in parts[0]} for row in said["surgery"]["subsets"]] == list(parts)
    assert truth_of(wanted, said) == {
        "sites": [site], "or": [], "outcome": "localized", "planted": "parameters", "changed": [site]
    }  # fmt: skip
    assert truth_of(wanted, {"surgery": {"runs": []}})["outcome"] == "not localized"
    assert truth_of(replace(wanted, sites=(1, 3)), {"surgery": {"runs": [[1], [3]]}})["or"] == [[3]]
    # Of a run with a gap, the planted sites alone are as right.
    beside = replace(wanted, sites=(2, 4))
    assert truth_of(beside, {"surgery": {"runs": [[2, 3, 4]]}})["or"] == [[2, 4]]
    written = from_bytes((tmp_path / f"{wanted.key}.safetensors").read_bytes(), wanted.key)
    assert {change.module for change in written.changes} == {
        getattr(toy.loaded.sites[site], path) for path in ("key_path", "value_path")
    }
    assert Bench(toy, Keen(wanted.look), LESSON, 3, IMAGES).settle(3, 1, tmp_path) == json.loads(json.dumps(said))
    with pytest.raises(SpecError, match="not what seed 4 draws; give each seed an --out of its own"):
        Bench(toy, Keen(wanted.look), LESSON, 4, IMAGES).settle(3, 1, tmp_path)
