"""The command line as a person meets it: one clean line for a mistake, the right exit code, nothing lost."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.support.localizers import picky
from tests.support.sweeps import Command

SWEEP = """\
name: small
models:
  - {{id: tiny, path: {model}}}
attributes: [style/velor]
windows: {{sizes: [1], stride: 5}}
prompts: 2
seeds: 2
generation: {{steps: 2, guidance_scale: 3.0, batch_size: 8}}
controls: {{random: 0}}
scorer: toy-clip
localize: {{resamples: 100}}
images: none
"""


@pytest.fixture
def sweep(tiny_pipeline: Path, tmp_path: Path) -> Path:
    path = tmp_path / "sweep.yaml"
    path.write_text(SWEEP.format(model=tiny_pipeline))
    return path


def test_a_sweep_from_plan_to_status(command: Command, sweep: Path, tmp_path: Path) -> None:
    results = tmp_path / "results"
    code, out, _ = command("plan", sweep, "--results", results, "--json")
    planned = json.loads(out)
    assert (code, planned["units"], planned["cells"]) == (0, 4, 4 * 8)
    code, out, _ = command("run", sweep, "--results", results, "--backend", "inline", "--threads", 1)
    assert code == 0
    assert "32 cells" in out
    code, out, _ = command("status", results, "--json")
    found = json.loads(out)
    assert (code, found["units"], found["units_done"], found["blocks"][0]["ok"]) == (0, 4, 4, 32)
    # What a worker was there for, loading included; the results say it, a cluster file says what that costs.
    (used,), (at_end,) = found["usage"], found["usage_at_end"]
    assert (used["model"], used["device"], used["gpus"]) == ("tiny", "cpu", 0)
    assert used["hours"] == pytest.approx(at_end["hours"]) == found["gpu_hours_so_far"]
    assert used["hours"] > pq.read_table(results / "scores")["seconds"].to_numpy().sum() / 3600
    assert "cost_so_far" not in found
    assert (found["driver"]["works"], found["progress"], found["outcome"]) == (False, None, "done")
    cluster = tmp_path / "cluster.yaml"
    cluster.write_text(
        f"name: c\nsweep: {sweep}\nresults: {results}\nworkers: {{gpus: 2}}\ncluster: {{local: true}}\n"
        "cost: {per_gpu_hour: 3600000}\n"
    )
    code, out, _ = command("status", cluster, "--json")
    assert json.loads(out)["cost_so_far"] == pytest.approx(3.6e6 * used["hours"])
    code, out, _ = command("status", cluster, "--watch")
    assert (code, "no driver is running: the last one finished" in out) == (0, True)
    assert re.search(r"^worker hours: \d+\.\d\d so far \(loading \d+%, .*\ncost: \d", out, re.M | re.S)
    # A part that is being written counts once: what of it is there already is passed over for its units.
    for record in (results / "_meta" / "published").iterdir():
        record.rename(tmp_path / record.name)
    code, out, _ = command("status", results, "--json")
    assert (code, json.loads(out)["blocks"][0]["ok"]) == (0, 32)
    for record in tmp_path.glob("[0-9]*.json"):
        record.rename(results / "_meta" / "published" / record.name)
    code, out, _ = command("localize", results, "--json", "--localizer", "argmin", "--write")
    assert json.loads(out)[0]["outcome"] == "localized"
    assert pq.read_table(results / "localizations")["localizer"].to_pylist() == ["argmin"]
    assert command("verify", results)[0] == 0
    planned = json.loads(command("plan", sweep, "--results", results, "--json")[1])
    assert (planned["units"], planned["measured"]) == (0, True), "seconds of units that are done are known"


def test_a_truncated_file_is_named_mended_and_nothing_is_lost(command: Command, sweep: Path, tmp_path: Path) -> None:
    results = tmp_path / "results"
    command("run", sweep, "--results", results, "--backend", "inline", "--threads", 1)
    before = pq.read_table(results / "scores").sort_by("cell_id")
    part = sorted((results / "scores").glob("part-*.parquet"))[-1]
    part.write_bytes(part.read_bytes()[:-100])
    code, out, _ = command("verify", results)
    assert (code, part.name in out) == (1, True)
    assert command("verify", results, "--repair")[0] == 0
    assert command("run", sweep, "--results", results, "--backend", "inline", "--threads", 1)[0] == 0
    assert pq.read_table(results / "scores").sort_by("cell_id").equals(before)


def test_localize_reads_any_parquet_with_these_columns(command: Command, sweep: Path, tmp_path: Path) -> None:
    results = tmp_path / "results"
    command("run", sweep, "--results", results, "--backend", "inline", "--threads", 1)
    shutil.copytree(results / "scores", tmp_path / "only-scores")
    code, out, _ = command("localize", tmp_path / "only-scores", "--json")
    assert (code, len(json.loads(out))) == (0, 1)
    pq.write_table(pa.table({"a": [1]}), tmp_path / "other.parquet")
    code, _, err = command("localize", tmp_path / "other.parquet")
    assert (code, err.count("\n")) == (1, 1)


def test_a_claim_about_a_kind_is_tested(command: Command, sweep: Path, tmp_path: Path) -> None:
    results = tmp_path / "results"
    sweep.write_text(sweep.read_text().replace("[style/velor]", "[style/velor, style/lumio]"))
    assert command("run", sweep, "--results", results, "--backend", "inline", "--threads", 1)[0] == 0
    code, out, _ = command("localize", results, "--claim", "style", "--window", "5,1", "--json")
    claims = json.loads(out)
    assert (code, len(claims)) == (0, 1)
    assert [item["attribute"] for item in claims[0]["attributes"]] == ["style/lumio", "style/velor"]
    assert claims[0]["holds"] is False
    code, out, _ = command("localize", results, "--window", "5,1", "--json")
    named = json.loads(out)
    assert (code, len(named)) == (0, 2)
    whole = json.loads(command("localize", results, "--json")[1])
    picked = next(row for row in whole[0]["effects"] if (row["window_start"], row["window_size"]) == (5, 1))
    alone = named[0]
    assert alone["effect"] == picked["effect"]
    assert alone["holds_in"] == picked["holds_in"]
    if alone["holds_in"]:
        assert alone["prompt_share_low"] > picked["prompt_share_low"], "no pick is paid for"
    code, out, _ = command("localize", results, "--window", "5,1")
    assert (code, out.count("sites 5-5: inconclusive: ")) == (0, 2), "two seeds carry no bound"
    for words, message in (
        (("--claim", "style"), "needs --window"),
        (("--window", "5,1", "--write"), "without --write"),
        (("--window", "6,1"), "was not swept"),
        (("--claim", "stile", "--window", "5,1"), 'did you mean "style"'),
        (("--claim", "style", "--window", "five"), "expected START,SIZE"),
        (("--claim", "style", "--window", "6,1"), "was not swept"),
    ):
        code, _, err = command("localize", results, *words)
        assert code in (1, 2)
        assert message in err
        assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (("seeds: 2", "sedes: 2"), r"sweep.yaml:7:1: .*sedes.*seeds"),
        (("style/velor", "style/veelor"), r'sweep.yaml:4:14: no attribute "style/veelor"; did you mean "style/velor"'),
        (("sizes: [1]", "sizes: [17]"), r"sweep.yaml:\d+:\d+: windows.sizes: 17 is larger than tiny, which has 16"),
        (("toy-clip", "toy-clipp"), r'did you mean "toy-clip"'),
        (("prompts: 2", "prompts: many"), r"sweep.yaml:6:10: "),
        (
            ("resamples: 100", "localizer: windoww"),
            r'sweep.yaml:\d+:\d+: no localizer "windoww".*"window"',
        ),
        (("steps: 2", "steps: 2, scheduler: DDIMSchedulr"), r'sweep.yaml:\d+:\d+: no scheduler .*"DDIMScheduler"'),
        (("images: none", "edit: {editors: [loco_edti]}"), r'sweep.yaml:\d+:\d+: no editor "loco_edti".*"loco_edit"'),
        (("images: none", "evaluate: {judge: toy-jugde}"), r"sweep.yaml:\d+:\d+: .*toy-judge"),
        (("prompts: 2", "prompts: 900"), r"900 are asked for, style/velor has 64"),
    ],
)
def test_a_mistake_in_the_sweep_is_one_line_and_exit_2(
    command: Command, sweep: Path, tmp_path: Path, change: tuple[str, str], expected: str
) -> None:
    import re

    sweep.write_text(sweep.read_text().replace(*change))
    code, out, err = command("run", sweep, "--results", tmp_path / "results", "--backend", "inline")
    assert code == 2
    assert re.search(expected, err), err
    assert err.count("\n") == 1
    assert "Traceback" not in err + out
    assert not (tmp_path / "results").exists()


def test_folders_that_are_no_models(command: Command, sweep: Path, tiny_pipeline: Path, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    pickled = tmp_path / "pickled"
    shutil.copytree(tiny_pipeline, pickled)
    for file in pickled.rglob("*.safetensors"):
        file.rename(file.with_suffix(".bin"))
    cases = ((empty, "model_index.json is missing"), (pickled, "pickle"), (tmp_path / "none", "no folder"))
    for folder, expected in cases:
        text = SWEEP.format(model=folder)
        sweep.write_text(text)
        code, _, err = command("run", sweep, "--results", tmp_path / "results", "--backend", "inline")
        assert (code, err.count("\n")) == (1, 1)
        assert expected in err


def test_results_of_another_sweep_are_refused(command: Command, sweep: Path, tmp_path: Path) -> None:
    results = tmp_path / "results"
    command("run", sweep, "--results", results, "--backend", "inline", "--threads", 1)
    before = {path: path.read_bytes() for path in results.rglob("*.parquet")}
    sweep.write_text(sweep.read_text().replace("steps: 2", "steps: 3"))
    code, _, err = command("run", sweep, "--results", results, "--backend", "inline")
    assert (code, "generation.steps 2 -> 3" in err) == (2, True)
    assert before == {path: path.read_bytes() for path in results.rglob("*.parquet")}


def test_missing_things_are_one_line(command: Command, tmp_path: Path) -> None:
    for words in (("run", tmp_path / "no.yaml"), ("status", tmp_path / "no"), ("models", "toyy"), ("retry", tmp_path)):
        code, _, err = command(*words)
        assert code in (1, 2)
        assert err.count("\n") == 1
    assert 'did you mean "toy"' in command("models", "toyy")[2]


def test_lists(command: Command) -> None:
    assert all(name in command("models")[1] for name in ("toy-planted-a", "toy-dit", "toy-dit-planted", "toy-mmdit"))
    sites = command("models", "toy")[1]
    assert "up_blocks.1.attentions.2" in sites
    assert "window sizes where a sweep names none: 1, 2, 3, 4\n" in sites
    assert "`super_resolution: DeepFloyd/IF-II-L-v1.0`, or any IFSuperR" in command("models", "deepfloyd-if")[1]
    assert "second stage" not in sites
    assert "style/van-gogh" in command("attributes")[1]
    assert {"style/van-gogh\treal models", "style/lumio\ttoy models"} <= {
        "\t".join(line.split("\t")[:2]) for line in command("attributes")[1].splitlines()
    }
    assert command("attributes", "fact/zandia")[1].startswith("prompt\tdonor\n")


def test_help_loads_neither_torch_nor_ray() -> None:
    code = (
        "import sys; sys.argv = ['loco-sweep', '--help']\n"
        "from orchestrator.cli.main import main\n"
        "try: main()\nexcept SystemExit: pass\n"
        "import loco_core\n"
        "heavy = {'torch', 'ray', 'diffusers', 'pandas', 'aiohttp', 'jinja2', 'pydantic', 'rich', 'yaml'}\n"
        "assert not heavy & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_methods_that_are_added_to_a_sweep_only_trace_and_stand_beside_it(
    command: Command, sweep: Path, tmp_path: Path
) -> None:
    results = tmp_path / "results"
    run = ("run", sweep, "--results", results, "--backend", "inline", "--threads", 1)
    sweep.write_text(sweep.read_text().replace("prompts: 2\nseeds: 2", "prompts: 1\nseeds: 1"))
    assert command(*run)[0] == 0
    before = pq.read_table(results / "scores")
    text = sweep.read_text()
    sweep.write_text(
        text.replace("resamples: 100", "resamples: 100, compare: [argmin, causal_tracing, attention_contribution]")
    )
    # 16 sites, a self-attention and an MLP in each of 3 layers of the text encoder, and the corrupted picture, in
    # batches of 8 with a clean one each; one picture of the other method.
    planned = json.loads(command("plan", sweep, "--results", results, "--json")[1])
    assert (planned["units"], planned["cells"], planned["images"]) == (2, 0, 23 + 4 + 1)
    assert command(*run)[0] == 0
    assert pq.read_table(results / "scores").equals(before)
    traces = pq.read_table(results / "traces")
    assert traces.filter(pa.compute.equal(traces["method"], "causal_tracing")).num_rows == 2 + 16 + 6
    rows = {row["localizer"]: row for row in pq.read_table(results / "localizations").to_pylist()}
    assert {name: row["compared"] for name, row in rows.items()} == {
        "window": False, "argmin": True, "attention_contribution": True, "causal_tracing": True
    }  # fmt: skip
    assert json.loads(command("plan", sweep, "--results", results, "--json")[1])["units"] == 0
    blocks = json.loads(command("status", results, "--json")[1])["blocks"]
    assert [block["outcome"] for block in blocks] == [rows["window"]["outcome"]]
    code, out, _ = command("localize", results)
    assert code == 0
    assert "style/velor: by causal_tracing" in out
    assert command("verify", results)[0] == 0
    page = (results / "report.html").read_text()
    assert '<th scope="row">attention contribution</th>' in page
    assert "Causal tracing (after Meng et al." in page


def test_a_model_that_cannot_be_traced_is_refused_where_it_stands(
    command: Command, tmp_path: Path, sweep: Path
) -> None:
    (tmp_path / "picky.py").write_text(picky("evolving", "it wants text that evolves"))
    sweep.write_text(sweep.read_text().replace("resamples: 100", "compare: [./picky.py]"))
    code, _, error = command("plan", sweep)
    assert code == 2
    assert "tiny (stable_diffusion) cannot be traced by picky: it wants text that evolves; supported: " in error


def test_a_prompt_that_equals_its_donor_is_refused_where_it_stands(command: Command, sweep: Path) -> None:
    record = "{prompt: a star, donor: a star, score_text: a star, donor_text: a shape, content_text: a star}"
    written = f"attributes: [{{kind: object, name: star, mode: remove, records: [{record}]}}]"
    text = sweep.read_text().replace("attributes: [style/velor]", written).replace("prompts: 2", "prompts: 1")
    sweep.write_text(text)
    code, _, error = command("plan", sweep)
    assert (code, error.count("\n")) == (2, 1)
    assert "says what prompt says, so that nothing can be measured" in error
    assert f"{sweep}:4:" in error
