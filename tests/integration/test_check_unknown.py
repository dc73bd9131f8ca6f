"""``loco-sweep check`` of a pipeline that no family serves: it says what it found, and that it cannot be swept."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.support.sweeps import Command, tiny_sweep
from tests.support.tiny_unknown import build_lumina, build_textless

NO_FAMILY = 'is a "LuminaPipeline", which no family supports: no family says how it is prompted'


def test_what_can_be_told_is_told_and_no_sweep_takes_it(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = build_lumina(tmp_path / "mine")
    capsys.readouterr()
    code, out, err = command("check", folder)
    assert (code, err) == (1, ""), out + err
    assert "pipeline: LuminaPipeline, denoiser: transformer (LuminaNextDiT2DModel)\n" in out
    assert "sites: 3, in 3 of 3 layers: layers.0" in out
    assert "guidance: both halves in one batch (STACKED)\n" in out
    assert "encode_prompt: prompt, do_classifier_free_guidance, " in out
    assert "could not be told: how a sentence becomes what the denoiser reads, and what is padding\n" in out
    assert out.splitlines()[-1] == (
        f"{folder} {NO_FAMILY}; it cannot be swept until a family says what could not be told (how-to: plug-ins)"
    )
    code, out, err = command("check", folder, "--json")
    assert (code, len(json.loads(out)["sites"])) == (1, 3)
    assert not (tmp_path / "certificates").exists()
    (tmp_path / "sweep.yaml").write_text(tiny_sweep(folder).model_dump_json(exclude_unset=True))
    for name in ("plan", "run"):
        code, out, err = command(name, "sweep.yaml")
        assert code != 0
        assert NO_FAMILY in err


def test_a_pipeline_without_a_text_is_one_line(
    command: Command, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = build_textless(tmp_path / "mine")
    capsys.readouterr()
    code, out, err = command("check", folder)
    assert (code, out) == (1, "")
    assert err == "error: the call of a DDPMPipeline takes no prompt: no text reaches its pictures\n"
