"""The code of a pipeline class that a package brings belongs to the identity of its pictures."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from loco_core import plugins
from orchestrator.resolve.default import code_of, identity_of
from tests.support.tiny_own import build_own


@pytest.mark.parametrize("module", ["brought_alone", "brought.pipeline", "brought.inner.pipeline"])
def test_a_changed_module_is_another_and_none_is_imported(
    module: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path.joinpath(*module.split(".")).with_suffix(".py")
    file.parent.mkdir(parents=True, exist_ok=True)
    for folder in (file.parent, tmp_path / "brought"):
        folder.mkdir(exist_ok=True)
        if folder != tmp_path:
            (folder / "__init__.py").write_text("raise AssertionError('imported')")
    file.write_text("one = 1")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(plugins, "outside", lambda group: {"MyPipeline": module} if group == "pipelines" else {})
    before = code_of("MyPipeline")
    assert before == code_of("MyPipeline") != ""
    file.write_text("one = 2")
    assert code_of("MyPipeline") != before
    assert code_of("StableDiffusionPipeline") == ""
    assert "brought" not in sys.modules


def test_it_is_a_part_of_the_identity_of_a_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from orchestrator.resolve.checkpoints import checkpoint
    from orchestrator.spec import ModelSpec

    found = checkpoint(ModelSpec(id="mine", path=str(build_own(tmp_path / "own"))))
    (tmp_path / "brought_once.py").write_text("one = 1")
    monkeypatch.syspath_prepend(tmp_path)
    plain = identity_of(found)[0]
    monkeypatch.setattr(plugins, "outside", lambda _: {"OwnPipeline": "brought_once"})
    one = identity_of(found)[0]
    (tmp_path / "brought_once.py").write_text("one = 2")
    assert len({plain, one, identity_of(found)[0]}) == 3
