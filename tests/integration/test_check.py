"""``loco-sweep check``: sound models get a certificate, broken ones a line that says what to do, and exit code 1."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from loco_core.checking.certificate import BUNDLED, read_folder
from loco_core.diffusion import model as models
from loco_core.diffusion.facts import families, known_models
from tests.support import tiny_cross, tiny_joint, tiny_models, tiny_packed, tiny_streams
from tests.support.broken_models import DEAF, HALF, black, grey, installed, of_class, wide_denoiser, wide_vae
from tests.support.sweeps import Command, tiny_sweep

TOY = [name for name, (_, info) in known_models().items() if info.path]
TINY: dict[str, Any] = {
    name: tiny for tiny in (tiny_models, tiny_cross, tiny_joint, tiny_packed, tiny_streams) for name in tiny.BUILDERS
}
QUICK = ("--steps", "2", "--seeds", "1", "--attribute", "style/lumio", "--scorer", "toy-clip", "--json")


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def quickly(command: Command, *words: object) -> tuple[int, dict[str, Any]]:
    """Checks a model with few pictures; returns the exit code and the certificate."""
    code, out, err = command("check", *words, *QUICK)
    assert err == "", err
    return code, json.loads(out)


def states(certificate: dict[str, Any]) -> dict[str, str]:
    return {check["name"]: check["state"] for check in certificate["checks"]}


def check_of(certificate: dict[str, Any], name: str) -> dict[str, Any]:
    return next(check for check in certificate["checks"] if check["name"] == name)


@pytest.mark.parametrize("name", TOY)
def test_a_bundled_model_passes(name: str, command: Command, tmp_path: Path) -> None:
    code, out, err = command("check", name)
    assert (code, err) == (0, ""), out + err
    *_, line, where = out.splitlines()
    (found,) = read_folder(tmp_path / "certificates")
    assert line == found.line
    assert line.startswith(f"{name}: checked on cpu, float32, diffusers ")
    assert ", style/velor 4 of 4, object/circle 4 of 4, fact/zandia 4 of 4, not checked: precision" in line
    assert where.startswith("certificate: certificates/")
    assert {check.name: check.state for check in found.checks} == {
        "sites": "passed", "pictures": "passed", "identity": "passed", "all_sites": "passed", "batch": "passed",
        "cost": "measured", "margin": "measured", "precision": "skipped",
    }  # fmt: skip
    assert found.sites_found == found.sites_expected == len(found.sites)
    # Where the text evolves, a picture is drawn beside its donor's.
    least = families()[found.family].least_batch
    assert [cost.size for cost in found.costs] == [size for size in (1, 2, 4) if size >= least]
    assert found.seconds > 0
    # What ships with the project was made of these weights, and says the same.
    shipped = next(each for each in read_folder(BUNDLED) if each.model == name)
    assert (shipped.weights, shipped.sites, shipped.line.split(":")[0]) == (found.weights, found.sites, name)
    assert [check.state for check in shipped.checks] == [check.state for check in found.checks]


def test_the_certificate_is_a_row_of_a_table_too(command: Command, tmp_path: Path) -> None:
    code, said = quickly(command, "toy", "--output", tmp_path / "kept")
    assert code == 0
    (row,) = pd.read_parquet(tmp_path / "kept" / "checks").to_dict("records")
    assert (row["model"], row["passed"], row["sites_found"], row["sites_expected"]) == ("toy", True, 16, 16)
    assert row["identity"] == check_of(said, "identity")["figure"]
    assert row["identity_limit"] == check_of(said, "identity")["limit"] > 0
    assert row["broken_pictures"] == 0
    assert list(row["batch_sizes"]) == [1, 2, 4]
    assert (list(row["attributes"]), list(row["pairs"]), list(row["closer"])) == (["style/lumio"], [2], [2])
    assert json.loads(row["certificate"]) == said
    assert json.loads((next((tmp_path / "kept" / "certificates").iterdir())).read_text()) == said


def test_half_precision_is_held_against_float32(command: Command) -> None:
    code, said = quickly(command, "toy", "--dtype", "bfloat16")
    precision = check_of(said, "precision")
    assert (code, precision["state"], said["dtype"]) == (0, "passed", "bfloat16")
    assert 1e-3 < precision["figure"] < precision["limit"]
    assert check_of(said, "identity")["limit"] == 1e-2


@pytest.fixture
def strange(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Path]:
    """A toy model of a class that one installed family file knows, which is broken."""
    with installed(tmp_path, {"strange": request.param}):
        yield of_class("StableDiffusionPAGPipeline", known_models()["toy"][1].path, tmp_path / "mine")  # type: ignore[arg-type]


@pytest.mark.parametrize("strange", [HALF], indirect=True)
def test_a_family_that_tells_half_of_the_sites_fails(strange: Path, command: Command, tmp_path: Path) -> None:
    code, out, err = command("check", strange)
    assert (code, err) == (1, ""), out + err
    assert "found 8 of 8 sites: " in out
    assert "; found beside them: up_blocks." in out
    assert "\nsites failed: the family reads this denoiser wrongly: correct its `site_names`" in out
    assert str(tmp_path) not in out.partition("certificate: ")[0]
    (found,) = read_folder(tmp_path / "certificates")
    assert (found.passed, found.named("failed"), found.sites_found, found.sites_expected) == (False, ("sites",), 16, 8)
    # No run gets further than this.
    sweep = tiny_sweep(strange, attributes=["style/velor"], prompts=1, seeds=1)
    (tmp_path / "sweep.yaml").write_text(sweep.model_dump_json(exclude_unset=True))
    code, out, err = command("run", "sweep.yaml", "--backend", "inline")
    assert code != 0
    assert "found 8 of 8 sites: " in out + err
    assert pd.read_parquet(tmp_path / "results" / "tiny" / "scores").empty


@pytest.mark.parametrize("strange", [HALF], indirect=True)
def test_where_rule_and_configuration_agree_on_half_the_pictures_tell(
    strange: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    every = models.record_sites
    monkeypatch.setattr(models, "record_sites", lambda *given: every(*given)[:8])
    code, said = quickly(command, strange)
    assert code == 1
    assert {name: state for name, state in states(said).items() if state == "failed"} == {"all_sites": "failed"}
    found = check_of(said, "all_sites")
    assert found["figure"] > 100 * found["limit"]
    assert found["advice"].startswith("the prompt reaches the picture by a way that no site covers")


@pytest.mark.parametrize("strange", [DEAF], indirect=True)
def test_a_family_that_loses_a_word_is_not_what_the_pipeline_draws(strange: Path, command: Command) -> None:
    code, said = quickly(command, strange)
    assert (code, states(said)["identity"], states(said)["batch"]) == (1, "failed", "passed")
    assert "encodes or passes prompts in another way" in check_of(said, "identity")["advice"]


def test_a_vae_that_gives_black_fails(command: Command, tmp_path: Path, tiny_pipeline: Path) -> None:
    code, out, err = command("check", black(tiny_pipeline, tmp_path / "black"), *QUICK[:-1])
    assert (code, err) == (1, ""), out + err
    assert "4 of 4 pictures are of one colour, 4 black" in out
    assert (
        "\npictures failed: the VAE does not decode what the denoiser draws: its weights or its scaling_factor" in out
    )
    assert "black: failed (pictures) on cpu, float32, " in out
    code, said = quickly(command, grey(tiny_pipeline, tmp_path / "grey"))
    assert (code, check_of(said, "pictures")["said"]) == (1, "4 of 4 pictures are of one colour")
    # The engine is right all the same, and nothing is scored.
    assert states(said) == {
        "sites": "passed", "pictures": "failed", "identity": "passed", "all_sites": "passed", "batch": "passed"
    }  # fmt: skip


@pytest.mark.parametrize(
    ("broken", "where", "rest"),
    [(wide_vae, "the VAE", "passed"), (wide_denoiser, "the denoiser or a text encoder", "skipped")],
)
def test_a_half_precision_that_gives_no_numbers_names_another(
    broken: Any, where: str, rest: str, command: Command, tmp_path: Path, tiny_pipeline: Path
) -> None:
    folder = broken(tiny_pipeline, tmp_path / "wide")
    code, said = quickly(command, folder, "--dtype", "float16")
    pictures = check_of(said, "pictures")
    assert (code, states(said)["identity"]) == (1, rest)
    assert pictures["said"] == f"4 of 4 pictures are not numbers: {where} gives infinite or undefined values in float16"
    assert "float16 is too narrow for these weights: use --dtype bfloat16 or float32" in pictures["advice"]
    code, said = quickly(command, folder)
    assert (code, states(said)["pictures"]) == (0, "passed")


def test_a_model_of_a_sweep_is_checked_as_the_sweep_has_it(command: Command, tmp_path: Path) -> None:
    other = {"id": "other", "path": str(known_models()["toy-dit"][1].path), "guidance_scale": 2.5}
    sweep = tiny_sweep(
        "unused", models=["toy", other], attributes=["fact/zandia", "style/lumio"]
    )  # fmt: skip
    (tmp_path / "sweep.yaml").write_text(sweep.model_dump_json(exclude_unset=True))
    code, out, err = command("check", "sweep.yaml", "--model", "other", "--steps", "4", "--seeds", "1", "--json")
    said = json.loads(out)
    assert (code, err, said["model"], said["source"], said["guidance_scale"]) == (0, "", "other", "toy-dit", 2.5)
    assert [each["attribute"] for each in said["margins"]] == ["fact/zandia", "style/lumio"]
    code, out, err = command("check", "sweep.yaml")
    assert (code, err) == (2, "error: --model: tiny has 2 models; expected one of toy, other\n")
    code, out, err = command("check", "sweep.yaml", "--model", "third")
    assert (code, err) == (2, 'error: --model: tiny has no model "third"; did you mean "other"?\n')


@pytest.mark.parametrize("name", TINY)
def test_a_random_pipeline_of_every_family_passes(
    name: str, command: Command, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    side = TINY[name].CALL_ARGUMENTS.get(name, {}).get("height", tiny_models.SIDE)
    sweep = tiny_sweep(
        "unused", models=[{"id": name, "path": str(TINY[name].build(name, tmp_path / name))}],
        generation={"guidance_scale": 3.0, "height": side, "width": side},
    )  # fmt: skip
    (tmp_path / "sweep.yaml").write_text(sweep.model_dump_json(exclude_unset=True))
    # What saving the pipeline has shown.
    capsys.readouterr()
    code, said = quickly(command, "sweep.yaml")
    assert (code, [each for each in said["checks"] if each["state"] == "failed"]) == (0, [])
    assert [states(said)[each] for each in ("sites", "identity", "all_sites", "batch")] == ["passed"] * 4
    assert said["sites_found"] == said["sites_expected"] > 3


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (["toyy"], 'no model "toyy"; did you mean "toy"?'),
        (
            ["./nothing"],
            "./nothing: there is no such folder; expected a name of `loco-sweep models`, a folder or a hub id",
        ),
        (["toy", "--dtype", "float64"], '--dtype float64: no number format; did you mean "float16"?'),
        (["toy", "--model", "other"], "--model names a model of a sweep file; toy is a model"),
        (["toy", "--attribute", "style/lumo"], 'no attribute "style/lumo"; did you mean "style/lumio"?'),
    ],
)
def test_a_wrong_word_is_one_line(words: list[str], error: str, command: Command, tmp_path: Path) -> None:
    code, out, err = command("check", *words)
    assert (code, out) == (2, "")
    assert err.startswith(f"error: {error}")
    assert len(err.splitlines()) == 1
    assert not (tmp_path / "certificates").exists()


def test_a_scorer_that_cannot_be_had_skips_the_margin_alone(command: Command, tiny_pipeline: Path) -> None:
    code, out, err = command("check", tiny_pipeline, *QUICK[:4], "--scorer", "./nowhere", "--json")
    said = json.loads(out)
    assert (code, err, states(said)["margin"], said["scorer"]) == (0, "", "skipped", "")
    assert check_of(said, "margin")["said"].startswith("no scorer: ")


def test_models_shows_certificates_in_place_of_a_status(command: Command, tmp_path: Path, tiny_pipeline: Path) -> None:
    def listed() -> dict[str, str]:
        code, out, err = command("models", "--json")
        assert (code, err) == (0, "")
        return {item["id"]: item["status"] for item in json.loads(out)}

    before = listed()
    assert all(before[name].startswith("checked on cpu, float32, 20") for name in TOY)
    assert all(status == "not checked" for name, status in before.items() if name not in TOY)
    code, out, _ = command("models", "sdxl")
    assert "`loco-sweep check sdxl` checks it in minutes" in out
    quickly(command, tiny_pipeline)
    quickly(command, black(tiny_pipeline, tmp_path / "dark"))
    found = listed()
    assert {name: found[name].partition(",")[0] for name in found.keys() - before.keys()} == {
        "tiny": "checked on cpu", "dark": "failed on cpu"
    }  # fmt: skip
    code, out, err = command("models", "toy")
    assert (code, "toy: checked on cpu, float32, diffusers" in out) == (0, True)
    (tmp_path / "certificates" / "other.json").write_text('{"a certificate": "of another program"}')
    assert listed() == found
    kept = next((tmp_path / "certificates").glob("tiny*.json"))
    kept.write_text(kept.read_text()[:400].replace('"model"', '"modell"') + '"format": "loco-sweep certificate 1"')
    code, out, err = command("models")
    assert (code, out) == (1, "")
    assert err.startswith(f"error: certificates/{kept.name}: a certificate that cannot be read")


def test_the_report_says_whether_a_model_was_checked(command: Command, tmp_path: Path, tiny_pipeline: Path) -> None:
    sweep = tiny_sweep(
        tiny_pipeline, models=["toy", {"id": "mine", "path": str(tiny_pipeline)}], attributes=["style/velor"],
        prompts=1, seeds=1, windows={"sizes": [2], "stride": 14},
    )  # fmt: skip
    (tmp_path / "sweep.yaml").write_text(sweep.model_dump_json(exclude_unset=True))
    code, out, err = command("run", "sweep.yaml", "--backend", "inline")
    assert code == 0, out + err
    page = (tmp_path / "results" / "tiny" / "report.html").read_text()
    assert '<tr><th scope="row">check of toy</th><td>checked on cpu, float32, 20' in page
    assert '<tr><th scope="row">check of mine</th><td>not checked</td>' in page
    quickly(command, tiny_pipeline)
    assert command("report", "sweep.yaml")[0] == 0
    page = (tmp_path / "results" / "tiny" / "report.html").read_text()
    assert '<tr><th scope="row">check of mine</th><td>checked on cpu, float32, 20' in page
