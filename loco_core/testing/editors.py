"""The contract of an editor, to be inherited by the tests of one.

class TestMine(EditorContract):
    editor = "./mine.py"

    @pytest.fixture(scope="class")
    def model(self) -> LoadedModel:
        return load_model("stable_diffusion", "A_SMALL_PIPELINE", None, "float32", "cpu")
"""

from __future__ import annotations

from dataclasses import fields

import pytest
import torch

from loco_core.diffusion.generate import generate
from loco_core.diffusion.model import LoadedModel
from loco_core.editing.base import COLUMNS, Concept, EditSettings, Target, editor_info, fit_edit
from loco_core.editing.deltas import Change, WeightDelta, applied, from_bytes, module_paths, norm, to_bytes
from loco_core.errors import EditError
from loco_core.types import Generation, PromptRecord, Row

PAIRS = (("a red circle in the style of lumio", "a red circle"), ("a blue star in the style of lumio", "a blue star"))
WEIGHTS = "w" * 64


def a_target(*sites: int) -> Target:
    """A style to be removed at some sites."""
    records = tuple(PromptRecord(*pair, "", "", "") for pair in PAIRS)
    return Target("tiny", WEIGHTS, sites, (Concept("style/lumio", records),))


class EditorContract:
    """What every editor promises.

    Attributes:
        editor: key of the editor under test, or its file.
    """

    editor: str

    @pytest.fixture(scope="class")
    def model(self) -> LoadedModel:
        """A small pipeline of three sites or more that admit an edit."""
        raise NotImplementedError("return a small loaded pipeline here")

    def fitted(self, model: LoadedModel, *sites: int) -> WeightDelta:
        """The edit under test."""
        return fit_edit(model, a_target(*sites), EditSettings(editor=self.editor))

    def test_changes_the_sites_that_it_is_told_and_no_others(self, model: LoadedModel) -> None:
        """Else what is measured would not be an edit of the localized sites."""
        delta = self.fitted(model, 1, 2)
        assert {change.module for change in delta.changes} <= set(module_paths(model, (1, 2)))
        assert norm(model, delta) > 0 or delta.runtime_only

    def test_leaves_the_model_as_it_is(self, model: LoadedModel) -> None:
        """What it returns is applied and undone by others, bit for bit."""
        denoiser = model.family.denoiser(model.pipeline)
        before = {name: value.clone() for name, value in denoiser.state_dict().items()}
        delta = self.fitted(model, 1, 2)
        assert all(torch.equal(value, before[name]) for name, value in denoiser.state_dict().items())
        rows = [Row(PAIRS[0][0], PAIRS[0][1], 0)]
        clean = next(generate(model, rows, Generation(2, 3.0), 1)).latents
        with applied(model, delta, WEIGHTS):
            assert not torch.equal(next(generate(model, rows, Generation(2, 3.0), 1)).latents, clean)
        assert torch.equal(next(generate(model, rows, Generation(2, 3.0), 1)).latents, clean)
        assert all(torch.equal(value, before[name]) for name, value in denoiser.state_dict().items())

    def test_is_the_same_again_and_from_its_file(self, model: LoadedModel) -> None:
        """A baseline is fitted anew where it is measured, and an edit is exported from what was written."""
        first, second = self.fitted(model, 2), self.fitted(model, 2)
        assert _equal(first, second)
        assert _equal(first, from_bytes(to_bytes(first), "memory"))

    def test_what_it_says_of_itself_holds(self, model: LoadedModel) -> None:
        """Settings that there are, columns that there are, and baselines that are other edits of the same modules."""
        info, settings, target = editor_info(self.editor), EditSettings(editor=self.editor), a_target(1, 2)
        assert {item.name for item in info.settings} | set(info.options) <= set(EditSettings.model_fields)
        assert len({item.scope for item in info.baselines}) == len(info.baselines)
        delta = self.fitted(model, 1, 2)
        assert set(info.filled(settings, delta)) == set(COLUMNS)
        for baseline in info.baselines:
            if baseline.make is not None:
                made = baseline.make(model, target, settings, delta, 3)
                assert {change.module for change in made.changes} <= {change.module for change in delta.changes}
                assert not _equal(made, delta)
                assert _equal(made, baseline.make(model, target, settings, delta, 3))

    def test_a_site_that_is_not_there_is_refused(self, model: LoadedModel) -> None:
        """In one clean line."""
        with pytest.raises(EditError, match="not in the model"):
            self.fitted(model, len(model.sites))


def _equal(a: WeightDelta, b: WeightDelta) -> bool:
    pairs = zip(_sorted(a), _sorted(b), strict=True)
    return a.provenance == b.provenance and all(
        _same(getattr(x, name.name), getattr(y, name.name)) for x, y in pairs for name in fields(Change)
    )


def _sorted(delta: WeightDelta) -> list[Change]:
    return sorted(delta.changes, key=lambda change: change.module)


def _same(a: torch.Tensor | str | float | None, b: torch.Tensor | str | float | None) -> bool:
    if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
        return torch.equal(a, b)
    return a is b or a == b
