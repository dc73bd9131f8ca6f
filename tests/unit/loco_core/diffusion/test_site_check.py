"""A model whose sites are not those that its configuration tells is refused when it is loaded, whoever loads it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import loco_core
from loco_core.diffusion import model as models
from loco_core.diffusion.facts import find_model, known_models
from loco_core.diffusion.families import stable_diffusion
from loco_core.diffusion.model import load_model
from loco_core.diffusion.site_check import SitesError, check_sites, spans
from loco_core.diffusion.sites import unet_site_names
from loco_core.errors import ModelError

TOY = str(find_model("toy")[1].path)
Names = Callable[[dict[str, Any]], tuple[str, ...]]


def load_with(monkeypatch: pytest.MonkeyPatch, names: Names) -> None:
    monkeypatch.setattr(stable_diffusion, "INFO", replace(stable_diffusion.INFO, site_names=names))
    load_model("stable_diffusion", TOY, None, "float32", "cpu")


def test_a_part_of_the_sites_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """As where some blocks keep K and V in a projection that the rule does not know: the rest would be swept."""
    every = models.record_sites
    monkeypatch.setattr(models, "record_sites", lambda *given: every(*given)[:4])
    for load in (lambda: load_with(monkeypatch, unet_site_names), lambda: loco_core.load_model(TOY)):
        with pytest.raises(SitesError) as error:
            load()
        assert "found 4 of 16 sites: down_blocks.0.attentions.0 .. down_blocks.0.attentions.1, " in str(error.value)
        assert "; not found: down_blocks." in str(error.value)
        assert (len(error.value.found), len(error.value.expected)) == (4, 16)


def test_a_family_that_tells_half_of_the_sites_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SitesError, match=r"found 8 of 8 sites: .*; found beside them: up_blocks"):
        load_with(monkeypatch, lambda config: unet_site_names(config)[:8])


def test_another_order_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SitesError, match=r"found 16 of 16 sites: .*; run in another order, beginning with down_blocks"):
        load_with(monkeypatch, lambda config: unet_site_names(config)[::-1])


def test_a_configuration_that_a_family_cannot_read_is_no_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ModelError, match=r"toy: its configuration is not that of .*KeyError\('num_layers'\)"):
        load_with(monkeypatch, lambda config: (str(config["num_layers"]),))


def test_no_site_at_all_is_refused() -> None:
    with pytest.raises(SitesError, match=r"here: found 0 of 2 sites; not found: blocks\.0 \.\. blocks\.1; its family"):
        check_sites([], lambda _: ("blocks.0", "blocks.1"), {}, "here")
    with pytest.raises(SitesError, match="here: found 0 of 0 sites; its family"):
        check_sites([], lambda _: (), {}, "here")


def test_addresses_are_written_as_spans() -> None:
    assert spans(["a.0", "a.1", "a.2", "b.2", "b.4", "mid"]) == "a.0 .. a.2, b.2, b.4, mid"
    assert spans([f"{letter}.0" for letter in "abcdefgh"]) == "a.0, b.0, c.0, d.0, e.0, 3 more"


def test_every_bundled_model_passes(tmp_path: Path) -> None:
    bundled = [(family, info.path) for family, info in known_models().values() if info.path]
    assert len(bundled) == 7
    for family, path in bundled:
        assert load_model(family, str(path), None, "float32", "cpu").sites
