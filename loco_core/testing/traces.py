"""The contract of a localizer that reads traces, to be inherited by the tests of one; made-up traces; real ones.

class TestMine(TraceLocalizerContract):
    localizer = mine
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from functools import partial
from types import ModuleType
from typing import Any, ClassVar, get_args

import numpy as np
import pyarrow as pa
import pytest
import torch

from loco_core import plugins
from loco_core.diffusion.generate import generate
from loco_core.diffusion.model import LoadedModel
from loco_core.diffusion.sites import removed
from loco_core.errors import LocalizationError, ModelError
from loco_core.localization.base import Localization, LocalizeSettings, Outcome
from loco_core.statistics import Floats
from loco_core.tracing import attention
from loco_core.tracing.causal import corrupt, draw, layers, trace
from loco_core.types import Generation, Row, Site

PROMPTS = (
    ("a red circle in the style of lumio", "a blue star"),
    ("a photo of a green square", "a photo of a yellow moon in the style of velor"),
)
SITES = 16
SITE_NAMES = tuple(f"site.{i}" for i in range(SITES))
SETTINGS = LocalizeSettings(resamples=200)


def simulated_traces(
    method: str,
    strength: Floats,
    *,
    encoder: Sequence[float] = (0.5, 0.1),
    full: float = 0.3,
    noise: float = 0.01,
    prompts: int = 8,
    seeds: int = 4,
    draw: int = 0,
) -> pa.Table:
    """Makes traces of a declared truth.

    Args:
        method: as in ``traces.method``.
        strength: of every site, its contribution, or the share that restoring it brings back.
        encoder: likewise of the text encoder's layers.
        full: margin that the noise takes.
        noise: standard deviation of a margin, or of a contribution's logarithm.
        prompts: how many.
        seeds: how many.
        draw: of the noise.
    """
    rng, rows = np.random.default_rng(draw), list[dict[str, Any]]()

    def add(prompt: int, seed: int, control: str, component: str | None, layer: int | None, value: float) -> None:
        name = None if layer is None else f"{'site' if component == 'denoiser' else 'encoder'}.{layer}"
        rows.append(
            {
                "model": "simulated", "attribute": "style/simulated", "attribute_kind": "style", "mode": "remove",
                "method": method, "control": control, "component": component, "layer": layer, "layer_name": name,
                "prompt_id": f"p{prompt}", "seed": seed, "value": value, "status": "ok",
            }
        )  # fmt: skip

    for prompt in range(prompts):
        for seed in range(seeds):
            if method == "attention_contribution":
                for site, value in enumerate(strength):
                    add(prompt, seed, "contribution", "denoiser", site, float(value * np.exp(rng.normal(0, noise))))
                continue
            add(prompt, seed, "clean", None, None, 0.2 + float(rng.normal(0, noise)))
            add(prompt, seed, "corrupted", None, None, 0.2 - full + float(rng.normal(0, noise)))
            for component, values in (("denoiser", strength), ("text_encoder", encoder)):
                for layer, share in enumerate(values):
                    margin = 0.2 - full * (1 - float(share)) + float(rng.normal(0, noise))
                    add(prompt, seed, "restored", component, layer, margin)
    return pa.Table.from_pylist(rows)


def assert_attention_adds_up(
    model: LoadedModel, rows: Sequence[Row], settings: Generation, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fails unless, at every site and step, what all tokens write is what goes into the attention's output.

    Args:
        model: of any family.
        rows: to draw.
        settings: of the generation.
        monkeypatch: of the test.
    """
    denoiser, calls = model.family.denoiser(model.pipeline), list[int]()
    written_by, contributed, count = attention.written_by, list[tuple[Any, torch.Tensor]](), len(rows)

    def checked(weight: torch.Tensor, call: Any, taken: torch.Tensor) -> torch.Tensor:
        every = torch.ones_like(taken)
        contributed.append((weight, written_by(weight, call, every)))
        part = written_by(weight, call, taken)
        assert part.norm() > 0
        return part

    def compare(site: Any, _: Any, given: Any) -> None:
        if not contributed:
            return
        ((weight, whole),) = contributed
        contributed.clear()
        heads, tokens = given[0][..., : weight.shape[1]], whole.shape[1]
        conditional = model.running.conditional.nonzero().flatten()[:count]  # type: ignore[union-attr]
        image = heads[:, :tokens] if model.facts.text_last else heads[:, heads.shape[1] - tokens :]
        expected = torch.nn.functional.linear(image[conditional].float(), weight.float())
        torch.testing.assert_close(whole, expected, rtol=1e-3, atol=1e-5)
        calls.append(site.index)

    monkeypatch.setattr(attention, "written_by", checked)
    handles = [output_of(denoiser, site).register_forward_pre_hook(partial(compare, site)) for site in model.sites]
    with removed(handles):
        found = attention.contributions(model, rows, settings, len(rows) + 1)
    assert found.shape == (len(rows), len(model.sites))
    assert bool((found > 0).all())
    assert set(calls) == {site.index for site in model.sites}
    assert len(calls) >= settings.steps * len(model.sites)


def output_of(denoiser: torch.nn.Module, site: Site) -> torch.nn.Module:
    """Returns the layer that the heads of a site's attention go through."""
    attention: Any = denoiser.get_submodule(site.attention_path)
    found = getattr(attention, "to_out", None) or getattr(attention, "out_layer", None)
    if found is None:
        block: Any = denoiser.get_submodule(site.attention_path.rpartition(".")[0])
        found = block.proj_out
    return found[0] if isinstance(found, torch.nn.ModuleList) else found


class TracesContract:
    """What can be traced of every family: a part of its contract."""

    def test_words_write_all_that_an_attention_writes(
        self, subject: Any, model: LoadedModel, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """So that the words of a concept write a part of it."""
        rows = [Row(prompt, donor, 3) for prompt, donor in PROMPTS]
        assert_attention_adds_up(model, rows, subject.settings, monkeypatch)

    def test_layers_are_restored(self, subject: Any, model: LoadedModel) -> None:
        """A picture a layer, each its own; refused where the family does not say which text encoders are read."""
        prompt, donor = PROMPTS[0]
        if not model.facts.traced_encoders:
            with pytest.raises(ModelError, match="none are known"):
                list(trace(model, prompt, donor, 3, subject.settings, 8))
            return
        clean, corrupted, *restored = trace(model, prompt, donor, 3, subject.settings, 8)
        (alone,) = generate(model, [Row(prompt, donor, 3)], subject.settings, 8)
        assert (clean.picture - alone.images[0]).abs().max() < 1e-4
        assert not torch.equal(clean.picture, corrupted.picture)
        assert [item.layer for item in restored] == list(layers(model))
        assert {layer.name.partition(".")[0] for layer in layers(model) if layer.component == "text_encoder"} == {
            name for name in model.facts.traced_encoders if getattr(model.pipeline, name) is not None
        }
        sites = [item.picture for item in restored if item.layer and item.layer.component == "denoiser"]
        assert len({picture.numpy().tobytes() for picture in (corrupted.picture, *sites)}) == 1 + len(model.sites)

    def test_a_corrupted_run_with_every_layer_restored_is_the_clean_one(self, model: LoadedModel, subject: Any) -> None:
        """Every site of the denoiser: all that the picture has of the text, but for a pooled one."""
        if model.facts.pooled:
            pytest.skip("a pooled text passes no attention")
        prompt, donor = PROMPTS[0]
        texts = corrupt(model, prompt, donor, 7, [[], []])
        every = tuple(range(len(model.sites)))
        clean, corrupted, whole = draw(model, texts, [(), (), every], 7, subject.settings, 3).latents
        assert (whole - clean).norm() < 1e-2 * (corrupted - clean).norm()


class TraceLocalizerContract:
    """What every localizer promises that reads traces, whatever its rule.

    Attributes:
        localizer: the module under test.
    """

    localizer: ClassVar[ModuleType]

    def traces(self, held: bool = True) -> pa.Table:
        """Traces of one site that holds the attribute, or of none."""
        strength = np.full(SITES, 0.01)
        strength[6] += 0.9 * held
        return simulated_traces(self.localizer.READS, strength)

    def localize(self, traces: pa.Table, names: tuple[str, ...] = SITE_NAMES) -> Localization:
        """The function under test."""
        found: Localization = self.localizer.localize(traces, SETTINGS, names)
        return found

    def test_says_which_method_it_reads(self) -> None:
        """One that the sweep traces."""
        assert self.localizer.READS in plugins.keys("tracers")

    @pytest.mark.parametrize("held", [True, False])
    def test_answers(self, held: bool) -> None:
        """Names the table, a known outcome, a reason, one effect row a site, and a window exactly if localized."""
        found = self.localize(self.traces(held))
        assert (found.model, found.attribute, found.attribute_kind) == ("simulated", "style/simulated", "style")
        assert found.outcome in get_args(Outcome)
        assert found.reason
        sites = [row.window_start for row in found.effects if row.component == "denoiser"]
        assert sites == list(range(SITES)) or (not sites and found.outcome != "localized")
        assert (found.window is not None) == (found.outcome == "localized")
        if found.window is not None:
            assert found.site_names == tuple(SITE_NAMES[i] for i in found.window.sites)
            assert found.window.start in found.tie_set
            assert found.relative_depth is not None
            assert 0 <= found.relative_depth <= 1

    def test_finds_the_site_that_holds_the_attribute(self) -> None:
        """Or a window around it."""
        found = self.localize(self.traces())
        assert found.window is not None
        assert 6 in found.window.sites

    def test_same_answer_again_and_for_any_order_of_rows(self) -> None:
        """A pure function of the set of rows, whatever further columns they have."""
        traces = self.traces()
        first = self.localize(traces)
        order = np.random.default_rng(1).permutation(traces.num_rows)
        assert self.localize(traces) == first
        assert self.localize(traces.take(order)) == first
        assert self.localize(traces.append_column("of_tomorrow", pa.nulls(traces.num_rows))) == first

    def test_holds_nulls_not_nan(self) -> None:
        """Plain finite Python values: the rows go to Parquet and JSON as they are. Of a single picture too."""
        json.dumps(dataclasses.asdict(self.localize(self.traces())), allow_nan=False)
        single = simulated_traces(self.localizer.READS, np.full(SITES, 0.1), prompts=1, seeds=1)
        json.dumps(dataclasses.asdict(self.localize(single)), allow_nan=False)

    @pytest.mark.parametrize("column", ["value", "control", "seed", "layer"])
    def test_a_missing_column_is_named(self, column: str) -> None:
        """The error says which."""
        with pytest.raises(LocalizationError, match=column):
            self.localize(self.traces().drop_columns([column]))

    def test_rows_of_two_attributes_and_none_are_refused(self) -> None:
        """Averaging over attributes by accident would look like a result."""
        traces = self.traces()
        position = traces.column_names.index("attribute")
        other = traces.set_column(position, "attribute", pa.array(["style/other"] * traces.num_rows))
        with pytest.raises(LocalizationError, match="style/other"):
            self.localize(pa.concat_tables([traces, other]))
        with pytest.raises(LocalizationError, match="no traces"):
            self.localize(traces.slice(0, 0))
