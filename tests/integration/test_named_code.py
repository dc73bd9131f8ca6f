"""Python files that results name: run where a person names them, and a changed one is another one."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
import yaml

from loco_core import plugins
from loco_core.errors import SpecError
from loco_core.types import Window
from orchestrator.backends.inline import InlineBackend
from orchestrator.resolve.lookup import resolve
from orchestrator.runs.edits import Selection, run_edits, run_evaluation
from orchestrator.runs.session import Controls, worker_settings
from orchestrator.runs.sweep import RunResult, run_sweep
from orchestrator.scheduler.loop import StopSwitch
from orchestrator.spec import SweepSpec
from orchestrator.store import encode_document, layout, open_store, preflight, write_derived
from orchestrator.store.schemas import TABLES
from tests.support.sweeps import Command, tiny_sweep

# It can stand for anything that a sweep names, and tells that it was executed.
PLUG_IN = """\
from pathlib import Path
with Path(__file__).with_suffix(".ran").open("a") as file:
    file.write("x")
from loco_core.editing.editors.loco_edit import edit
from loco_core.localization.localizers.window import localize
from loco_core.toyworld import WEIGHTS
from loco_core.scoring.scorers.clip import Scorer
WEIGHTS = str(WEIGHTS / "clip")
"""
INLINE = ("--backend", "inline", "--threads", 1)
EDIT = {"editors": ["loco_edit"], "targets": "paired", "lambdas": [0.1], "tokens": ["all"], "preserve": 0}
EVALUATE = {"prompts": 1, "seeds": 1, "neighbours": 0, "windows": False}
SLOTS: dict[str, dict[str, Any]] = {
    "localizer": {"localize": {"localizer": "{file}", "resamples": 100}},
    "beside": {"localize": {"compare": ["{file}"], "resamples": 100}},
    "scorer": {"scorer": "{file}"},
    "editor": {"edit": {**EDIT, "editors": ["{file}"]}},
}


def small(model: Path, **changes: Any) -> SweepSpec:
    kept: dict[str, Any] = {
        "attributes": ["style/velor"], "prompts": 1, "seeds": 1, "controls": {"random": 0, "identity": False},
        "windows": {"sizes": [2], "stride": 7}, "edit": EDIT, "evaluate": EVALUATE,
        "generation": {"steps": 1, "guidance_scale": 3.0, "batch_size": 8},
    }  # fmt: skip
    return tiny_sweep(model, **{**kept, **changes})


def controls() -> Controls:
    return Controls(lambda settings: InlineBackend(settings, threads=1), lambda _: None, StopSwitch())


def run(spec: SweepSpec, root: Path) -> RunResult:
    return run_sweep(
        spec, str(root), lambda settings: InlineBackend(settings, threads=1), on_progress=lambda _: None,
        on_localized=lambda _: None, stop=StopSwitch(),
    )  # fmt: skip


def by_hand(root: Path) -> None:
    meant = Selection(str(root), attributes=("style/velor",))
    run_edits(meant, controls(), print, window=Window(3, 2))


@pytest.fixture(scope="module")
def edited(tiny_pipeline: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Results with edits, made without any file."""
    torch.set_num_threads(1)
    root = tmp_path_factory.mktemp("named") / "results"
    run(small(tiny_pipeline), root)
    by_hand(root)
    return root


@pytest.fixture
def results(edited: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(edited, tmp_path / "results"))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "code" / "json.py"
    path.parent.mkdir()
    path.write_text(PLUG_IN)
    return path


def ran(file: Path) -> int:
    mark = file.with_suffix(".ran")
    return len(mark.read_text()) if mark.exists() else 0


def forge(results: Path, change: dict[str, Any]) -> None:
    """Writes another spec into results, as somebody else may have."""
    store = open_store(str(results))
    spec, sweep_id = store.sweep(), store.sweep_id()
    assert spec is not None
    content = {**spec.model_dump(mode="json", exclude_unset=True), **change}
    store.blobs.replace(layout.SWEEP, encode_document({"sweep_id": sweep_id, "spec": content}))


def filled(change: Any, file: Path) -> Any:
    return json.loads(json.dumps(change).replace("{file}", str(file)))


def commands(results: Path, own: Path, out: Path) -> list[tuple[object, ...]]:
    """Every command that reads results, as a person gives it."""
    return [
        ("retry", results, *INLINE), ("localize", results), ("edit", results, "--window", "5,2", *INLINE),
        ("evaluate", results, "--seeds", 2, *INLINE),
        ("status", results), ("report", results), ("verify", results), ("verify", results, "--repair"),
        ("export", results, out), ("plan", own, "--results", results), ("run", own, "--results", results, *INLINE),
    ]  # fmt: skip


@pytest.mark.parametrize("slot", [*SLOTS, "a row of edits"])
def test_no_command_runs_a_file_that_only_results_name(
    slot: str, results: Path, file: Path, tiny_pipeline: Path, tmp_path: Path, command: Command
) -> None:
    own = tmp_path / "own.yaml"
    own.write_text(yaml.safe_dump(small(tiny_pipeline).model_dump(mode="json", exclude_unset=True)))
    store = open_store(str(results))
    if slot in SLOTS:
        forge(results, filled(SLOTS[slot], file))
    else:
        rows = store.read("edits").to_pylist()
        settings = json.dumps({**json.loads(rows[0]["settings"]), "editor": str(file)}, sort_keys=True)
        forged = [{**row, "editor": str(file), "settings": settings} for row in rows]
        write_derived(store, {"edits": type(store.read("edits")).from_pylist(forged, TABLES["edits"])})
    codes: dict[str, set[int]] = {}
    tune = [("tune", results, "--trials", 1)] if slot in SLOTS else []
    for words in [*tune, *commands(results, own, tmp_path / "out")]:
        code, out, err = command(*words)
        assert ran(file) == 0, words
        assert "Traceback" not in out + err
        codes.setdefault(str(words[0]), set()).add(code)
        if "would be run" in err:
            assert f"{file}, which" in err
            assert "--trust" in err, words
            assert err.count("\n") == 1, err
    runs_it = {"retry", "localize", "edit", "evaluate", "tune"}
    refused = {"scorer": runs_it - {"localize"}, "editor": runs_it - {"localize"}, "a row of edits": {"evaluate"}}
    for name in refused.get(slot, runs_it):
        assert codes[name] == {2}, name
    assert codes["status"] == codes["report"] == {0}


@pytest.mark.parametrize(
    ("slot", "words"),
    [
        ("localizer", ("localize", "{results}", "--trust")),
        ("localizer", ("localize", "{results}", "--localizer", "{file}")),
        ("beside", ("localize", "{results}", "--trust", "--json")),
        ("localizer", ("retry", "{results}", "--trust", *INLINE)),
        ("editor", ("evaluate", "{results}", "--trust", *INLINE)),
        ("editor", ("edit", "{results}", "--window", "5,2", "--trust", *INLINE)),
    ],
)
def test_a_file_that_a_person_names_or_trusts_is_run_once(
    slot: str, words: tuple[str, ...], results: Path, file: Path, command: Command
) -> None:
    forge(results, filled(SLOTS[slot], file))
    code, out, err = command(*(str(word).format(results=results, file=file) for word in words))
    assert code == 0, err
    assert ran(file) == 1
    said = f"running {file}, which these results name\n"
    assert (said in err) == ("--trust" in words)
    assert said not in out


def test_an_own_sweep_file_names_its_files_and_the_report_says_their_sums(
    tiny_pipeline: Path, file: Path, tmp_path: Path, command: Command
) -> None:
    root, own = tmp_path / "results", tmp_path / "own.yaml"
    spec = small(tiny_pipeline, scorer=str(file), localize={"localizer": str(file), "compare": ["argmin"]})
    spec = spec.model_copy(update={"attributes": (*spec.attributes, "style/lumio", "fact/zandia"), "edit": None})
    own.write_text(yaml.safe_dump(spec.model_dump(mode="json", exclude_unset=True, exclude={"edit"})))
    code, _, err = command("run", own, "--results", root, *INLINE)
    assert code == 0, err
    assert ran(file) == 1
    assert json.loads((root / "_meta" / "resolved.json").read_text())["code"] == plugins.digests([str(file)])
    assert f"file {file}" in (root / "report.html").read_text()
    # A scorer that changed would score beside what it was.
    file.write_text(PLUG_IN + "\n# changed\n")
    code, _, err = command("run", own, "--results", root, *INLINE)
    assert (code, err.count("\n")) == (2, 1)
    assert "scores were made with scorer weights" in err


def test_edits_of_a_changed_editor_are_other_edits(
    tiny_pipeline: Path, results: Path, file: Path, tmp_path: Path
) -> None:
    def fitted(spec: SweepSpec) -> dict[str, float]:
        meant = Selection(str(results), attributes=("style/velor",))
        run_edits(meant, controls(), print, window=Window(3, 2), blocks=spec)
        rows = pd.read_parquet(results / "edits")
        return dict(zip(rows.edit_id, rows.norm, strict=True))

    spec = small(tiny_pipeline, edit={**EDIT, "editors": [str(file)]})
    first = fitted(spec)
    assert fitted(spec) == first
    # As strong again: what was fitted before must not be told as what it does now.
    file.write_text(
        PLUG_IN.replace("import edit\n", "import edit as weaker\n")
        + "def edit(model, target, settings):\n"
        + "    return weaker(model, target, settings.model_copy(update={'strength': settings.strength / 100}))\n"
    )
    second = fitted(spec)
    assert not first.keys() & second.keys()
    assert json.loads((results / "_meta" / "resolved.json").read_text())["code"] == plugins.digests([str(file)])
    assert max(second.values()) > 1.1 * max(first.values())
    # Where it lies is not what it does.
    moved = Path(shutil.copy(file, tmp_path / file.name))
    assert fitted(small(tiny_pipeline, edit={**EDIT, "editors": [str(moved)]})) == second
    # One whose file is gone cannot be measured on more, and stands in no other's way.
    said: list[str] = []
    file.unlink()
    run_evaluation(Selection(str(results)), controls(), said.append, {"seeds": 2})
    assert [line for line in said if "cannot be fitted again as they were" in line and "editor's file" in line]


def test_a_worker_refuses_a_scorer_that_is_not_the_runs_and_loads_no_weights_for_it(
    tiny_pipeline: Path, file: Path, results: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = small(tiny_pipeline, scorer=str(file))
    settings = worker_settings(str(results), "s", spec, resolve(spec), preflight(open_store(str(results)).blobs))
    file.write_text(PLUG_IN + "\n# changed\n")
    # As in a process of its own.
    for known in ("_executed", "_current"):
        monkeypatch.setattr(plugins, known, {})
    monkeypatch.setattr("loco_core.diffusion.model.load_model", None)
    with pytest.raises(SpecError, match=rf"^{file} is not the file that this run began with .*start the run again$"):
        settings("tiny")
