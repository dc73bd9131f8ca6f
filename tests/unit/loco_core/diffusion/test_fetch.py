"""Models fetched from a hub on loopback: what is fetched, how often, and what is said where it refuses."""

from __future__ import annotations

import logging
import multiprocessing
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from loco_core.diffusion import hub, refusals
from loco_core.diffusion.folders import pipeline_files
from loco_core.errors import ModelError
from loco_core.toyworld import WEIGHTS
from tests.support.folders import to_variant
from tests.support.hub import COMMIT, Hub, redirect, serving
from tests.support.tiny_models import save, stable_diffusion

SAFETY = frozenset({"safety_checker", "feature_extractor"})


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository as people publish them: beside what is loaded there are variants, pickles and pictures."""
    folder = tmp_path_factory.mktemp("hub") / "tiny"
    save(stable_diffusion, folder)
    for part, stem in (
        ("unet", "diffusion_pytorch_model"),
        ("vae", "diffusion_pytorch_model"),
        ("text_encoder", "model"),
    ):
        weights = folder / part / f"{stem}.safetensors"
        for other in (f"{stem}.fp16.safetensors", f"{stem}.bin", f"{stem}.non_ema.safetensors"):
            shutil.copy(weights, folder / part / other)
    (folder / "README.md").write_text("# Tiny")
    (folder / "tiny-pruned.safetensors").write_bytes(b"0" * 1000)
    return folder


@pytest.fixture
def served(published: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with serving({"owner/tiny": published, "owner/clip": WEIGHTS / "clip"}) as found:
        redirect(monkeypatch, found, tmp_path / "cache")
        yield found


def loaded_files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_only_what_is_loaded_is_fetched(served: Hub) -> None:
    folder = hub.local_pipeline("owner/tiny", COMMIT, SAFETY)
    wanted = {str(path.relative_to(folder)) for path in pipeline_files(folder, SAFETY)}
    extra = loaded_files(folder) - wanted
    assert all(name.endswith(".json") for name in extra), extra
    assert {name for name in wanted if name.endswith(".safetensors")} == {
        "unet/diffusion_pytorch_model.safetensors", "vae/diffusion_pytorch_model.safetensors",
        "text_encoder/model.safetensors",
    }  # fmt: skip
    asked = len(served.requests)
    assert hub.local_pipeline("owner/tiny", COMMIT, SAFETY) == folder
    assert len(served.requests) == asked, "a model that is here asks for nothing"


def test_of_a_model_with_variants_only_one_is_fetched_and_then_it_is_whole(
    served: Hub, published: Path, tmp_path: Path
) -> None:
    half = tmp_path / "half"
    save(stable_diffusion, half)
    to_variant("fp16", "unet", "vae", "text_encoder")(half)
    served.models = {"owner/half": half}
    folder = hub.local_pipeline("owner/half", COMMIT)
    assert (folder / "unet" / "diffusion_pytorch_model.fp16.safetensors").is_file()
    asked = len(served.requests)
    assert hub.local_pipeline("owner/half", COMMIT) == folder
    assert len(served.requests) == asked


def test_of_a_model_with_plain_weights_the_named_variant_is_fetched_alone(served: Hub) -> None:
    folder = hub.local_pipeline("owner/tiny", COMMIT, SAFETY, "fp16")
    assert {name for name in loaded_files(folder) if name.endswith(".safetensors")} == {
        "unet/diffusion_pytorch_model.fp16.safetensors", "vae/diffusion_pytorch_model.fp16.safetensors",
        "text_encoder/model.fp16.safetensors",
    }  # fmt: skip
    asked = len(served.requests)
    assert hub.local_pipeline("owner/tiny", COMMIT, SAFETY, "fp16") == folder
    assert len(served.requests) == asked
    with pytest.raises(ModelError, match="owner/tiny holds no weights of the variant bf16; expected fp16 or non_ema"):
        hub.local_pipeline("owner/tiny", COMMIT, SAFETY, "bf16")


def test_what_a_single_file_holds_is_not_fetched_of_the_pipeline_that_lends(served: Hub) -> None:
    folder = hub.local_pipeline("owner/tiny", COMMIT, SAFETY, held=frozenset({"unet", "text_encoder"}))
    assert {name for name in loaded_files(folder) if name.endswith(".safetensors")} == {
        "vae/diffusion_pytorch_model.safetensors"
    }
    assert {"unet/config.json", "text_encoder/config.json", "tokenizer/tokenizer_config.json"} <= loaded_files(folder)
    asked = len(served.requests)
    everything = frozenset({"unet", "text_encoder", "vae"})
    assert hub.local_pipeline("owner/tiny", COMMIT, SAFETY, held=everything) == folder
    assert len(served.requests) == asked, "what is here is enough"


def test_a_scorer_is_fetched_as_a_folder(served: Hub) -> None:
    folder = Path(hub.local_scorer("owner/clip", COMMIT))
    assert (folder / "model.safetensors").is_file()
    asked = len(served.requests)
    assert hub.local_scorer("owner/clip", COMMIT) == str(folder)
    assert len(served.requests) == asked


def fetch(number: int, barrier: Any) -> str:
    barrier.wait()
    return str(hub.local_pipeline("owner/tiny", COMMIT, SAFETY))


def test_eight_workers_of_a_node_fetch_a_model_once(served: Hub) -> None:
    context = multiprocessing.get_context("fork")
    with context.Manager() as manager, context.Pool(8) as pool:
        barrier = manager.Barrier(8)
        folders = pool.starmap(fetch, [(number, barrier) for number in range(8)], chunksize=1)
    assert len(set(folders)) == 1
    downloads = served.downloads()
    assert downloads
    assert set(downloads.values()) == {1}, downloads
    listings = [line for line in served.requests if "/tree/" in line]
    assert len(listings) == 1
    # A HEAD and a GET per file, the list, and what a first answer takes.
    assert len(served.requests) <= 2 * len(downloads) + 2


@pytest.mark.parametrize("call", [lambda: hub.hub_file("owner/tiny", None, "model_index.json"),
                                  lambda: hub.local_pipeline("owner/tiny", COMMIT)])  # fmt: skip
@pytest.mark.parametrize(
    ("token", "says"),
    [
        ("", r"^owner/tiny is gated \(401\): accept its licence at http://127.0.0.1:\d+/owner/tiny, and set HF_TOKEN"),
        ("hf_stranger", r"^owner/tiny is gated, and the account of the token may not read it \(403\): accept its"),
        ("hf_nobody", r"^the hub refuses the token, or has no owner/tiny for it \(401\): expected HF_TOKEN to be"),
    ],
)  # fmt: skip
def test_a_gated_model_says_what_to_do(
    call: Callable[[], object], token: str, says: str, served: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    served.token, served.strangers = "hf_owner", ("hf_stranger",)
    monkeypatch.setenv("HF_TOKEN", token)
    with pytest.raises(ModelError, match=says) as error:
        call()
    assert "\n" not in str(error.value)
    assert not token or token not in str(error.value)
    monkeypatch.setenv("HF_TOKEN", "hf_owner")
    call()


def test_a_model_that_is_not_there_is_no_matter_of_licences(served: Hub) -> None:
    with pytest.raises(ModelError, match=r"^the hub has no owner/none, or shows it to some only \(401\)"):
        hub.hub_file("owner/none", None, "model_index.json")


def test_too_many_requests_are_waited_for_as_long_as_the_hub_says(
    served: Hub, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    pauses = list[float]()

    class Noting(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            pauses.append(timeout or 0.0)
            return False

    monkeypatch.setattr(refusals, "Event", Noting)
    monkeypatch.setattr(hub, "Event", Noting)
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", pauses.append)
    served.busy, served.pause = 12, "7"
    with caplog.at_level(logging.WARNING):
        folder = hub.local_pipeline("owner/tiny", COMMIT, SAFETY)
    assert (folder / "unet" / "diffusion_pytorch_model.safetensors").is_file()
    assert pauses
    assert all(pause >= 7 for pause in pauses), pauses
    assert "the hub allows no more requests for now (429); asking again in" in caplog.text


def test_too_many_requests_for_too_long_say_what_to_do(served: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda _: None)
    served.busy = 10**6
    with pytest.raises(
        ModelError, match=r"^the hub allows no more requests of owner/tiny for now \(429\): run the same"
    ):
        hub.hub_file("owner/tiny", None, "model_index.json", seconds=0.0)


def test_a_pause_that_is_longer_than_we_wait_is_not_begun(served: Hub) -> None:
    served.busy, served.pause = 10**6, "86400"
    with pytest.raises(
        ModelError, match=r"^the hub allows no more requests of owner/tiny for now \(429\): run the same"
    ):
        hub.hub_file("owner/tiny", None, "model_index.json", seconds=600.0)
    with pytest.raises(ModelError, match="429"):
        hub.local_pipeline("owner/tiny", COMMIT, SAFETY)


def test_ctrl_c_ends_a_wait_of_the_threads_that_fetch(served: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.hf_hub_download", _over_the_limit)
    monkeypatch.setattr(hub, "_listed", lambda *_: {"model_index.json": 1})
    with pytest.raises(KeyboardInterrupt):
        hub._download("owner/tiny", COMMIT, ("stopped", "model_index.json"))


def _over_the_limit(_: str, name: str, **__: Any) -> str:
    if name == "stopped":
        raise KeyboardInterrupt
    error = OSError("429")
    error.response = SimpleNamespace(status_code=429, headers={"Retry-After": "1800"})  # type: ignore[attr-defined]
    raise error


@pytest.mark.parametrize("call", [hub.outlined, hub.local_folder])
def test_a_hub_that_answers_no_more_is_left_alone(
    call: Callable[..., object], served: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DOWNLOAD_TIMEOUT", 0.2)
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda _: None)
    needs = hub.pipeline_needs(SAFETY)
    # The first answer holds for a minute; after it none comes to what is asked of the API.
    hub.hub_file("owner/tiny", COMMIT, needs.first)
    served.silent = "/api/"
    with pytest.raises(ModelError, match="owner/tiny"):
        call("owner/tiny", COMMIT, needs)


def test_a_hub_that_never_answers_is_not_asked_for_a_list(served: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    needs = hub.pipeline_needs(SAFETY)
    hub.hub_file("owner/tiny", COMMIT, needs.first)
    monkeypatch.setattr(hub, "_asked", {})
    monkeypatch.setattr(hub, "PATIENCE", 0.2)
    served.silent = "/"
    asked = len(served.requests)
    with pytest.raises(ModelError, match=r"the hub cannot be reached .*does not list owner/tiny"):
        hub.outlined("owner/tiny", COMMIT, needs)
    assert served.requests[asked:] == ["HEAD /"]


# As POSIX writes zones: a machine may lack the names of others.
@pytest.fixture(params=["UTC0", "NPT-5:45"])
def _zone(request: pytest.FixtureRequest) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TZ", request.param)
        time.tzset()
        yield
    time.tzset()


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"Retry-After": "30"}, 30),
        ({"Retry-After": "Sun, 06 Nov 1994 10:49:37 GMT"}, 7200),
        ({"Retry-After": "Sun Nov  6 10:49:37 1994"}, 7200),
        ({"Retry-After": "Sun, 06 Nov 1994 08:49:36 GMT"}, 0),
        ({"Retry-After": "soon"}, 0),
        ({"ratelimit": '"api";r=0;t=55'}, 55),
        ({"ratelimit": '"api";r=3;t=55'}, 0),
        ({}, 0),
    ],
)
@pytest.mark.usefixtures("_zone")
def test_every_way_in_which_the_hub_asks_to_wait(
    headers: dict[str, str], seconds: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = datetime(1994, 11, 6, 8, 49, 37, tzinfo=UTC).timestamp()
    monkeypatch.setattr(refusals, "time", SimpleNamespace(time=lambda: now))
    error = RuntimeError("of its client")
    error.__cause__ = OSError("429")
    error.__cause__.response = SimpleNamespace(status_code=429, headers=headers)  # type: ignore[attr-defined]
    assert refusals.asked_for(error) == seconds
    assert refusals.status_of(error) == 429


def test_choosing_files_needs_no_torch() -> None:
    code = "import sys, loco_core.diffusion.hub; sys.exit('torch' in sys.modules or 'huggingface_hub' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
