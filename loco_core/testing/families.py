"""The contract of a family of models, to be inherited by the tests of one.

class TestMine(FamilyContract):
    @pytest.fixture(scope="class")
    def subject(self, tmp_path_factory) -> Subject:
        return Subject("./mine.py", save_a_tiny_pipeline(tmp_path_factory.mktemp("mine")))
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from loco_core.diffusion.facts import families
from loco_core.diffusion.generate import generate
from loco_core.diffusion.model import LoadedModel
from loco_core.diffusion.sites import outputs
from loco_core.editing.base import Concept, EditSettings, HeldHalf, Target, editor_info, fit_edit
from loco_core.editing.deltas import DENOISER, Change, WeightDelta, applied, module_paths, projection
from loco_core.errors import EditError
from loco_core.testing.plain_pipeline import STEPS, Calls, Plain, Subject
from loco_core.testing.traces import TracesContract
from loco_core.types import GuidanceHalf, Intervention, Part, Pooled, PromptRecord, Row, Source

__all__ = ["FamilyContract", "Subject"]

PROMPTS = (
    ("a red circle in the style of lumio", "a blue star"),
    ("a photo of a green square", "a photo of a yellow moon in the style of velor"),
)
CELLS, TOLERANCE = 16, 1e-4
WEIGHTS = "w" * 64
EDITORS = ("loco_edit", "neurons", "uce", "speed", "rece", "diff_quick_fix")
# What an engine with a mistake takes instead.
EXCHANGED: dict[Part, Part] = {"kv": "kv", "k": "v", "v": "k"}
OTHER_HALF: dict[GuidanceHalf, GuidanceHalf] = {
    "conditional": "unconditional", "unconditional": "conditional", "both": "both"
}  # fmt: skip


OTHER_SOURCE: dict[Source, Source] = {"run": "own", "own": "run"}
MUTANTS = ("window off by one", "K and V exchanged", "another half of guidance", "another source")


def random_rows(sites: int, *, guided: bool, evolves: bool = False, count: int = CELLS) -> list[Row]:
    """Draws cells over all options; clean ones and donor prompts among them."""
    rng, rows = random.Random(7), []
    halves: list[GuidanceHalf] = list(OTHER_HALF) if guided else ["conditional"]
    for _ in range(count):
        prompt, donor = rng.choice(PROMPTS)
        start = rng.randrange(0, 2)
        does = Intervention(
            sites=tuple(sorted(rng.sample(range(sites), rng.choice([0, 1, 2, sites])))),
            part=rng.choice(["kv", "k", "v"]),
            step_start=start,
            step_end=rng.choice([None, start + 1, STEPS]),
            tokens=rng.choice(["all", "all", "words", "padding"]),
            guidance_half=rng.choice(halves),
            source=rng.choice(["run", "own"]) if evolves else "run",
        )
        rows.append(Row(prompt, donor, rng.randrange(3), does))
    return rows


def _rows(model: LoadedModel, count: int = CELLS) -> list[Row]:
    facts = model.facts
    return random_rows(len(model.sites), guided=facts.guided, evolves=facts.stream == "evolving", count=count)


def difference(a: torch.Tensor, b: torch.Tensor) -> float:
    """Returns the distance of two tensors relative to the second."""
    return float((a - b).norm() / b.norm())


class FamilyContract(TracesContract):
    """What every family promises."""

    @pytest.fixture(scope="class")
    def subject(self) -> Subject:
        """The family under test."""
        raise NotImplementedError("return a Subject of your family here")

    @pytest.fixture(scope="class")
    def model(self, subject: Subject) -> LoadedModel:
        """The pipeline, loaded."""
        return subject.load()

    @pytest.fixture(scope="class")
    def cells(self, subject: Subject, model: LoadedModel) -> tuple[list[Row], list[torch.Tensor]]:
        """Random cells, and what the plain loop makes of them."""
        rows, plain = _rows(model), Plain(subject, model)
        return rows, [plain.draw(row) for row in rows]

    def drawn(self, model: LoadedModel, subject: Subject, rows: list[Row], batch_size: int = 8) -> torch.Tensor:
        """Final latents of rows, drawn by the engine."""
        return torch.cat([part.latents for part in generate(model, rows, subject.settings, batch_size)])

    def test_sites_are_those_that_the_configuration_tells(self, subject: Subject, model: LoadedModel) -> None:
        """Without torch, from a file, in the order of a recorded forward pass."""
        config = json.loads((subject.folder / model.facts.config_file).read_text())
        assert model.facts.site_names(config) == tuple(site.name for site in model.sites)
        assert [site.index for site in model.sites] == list(range(len(model.sites)))
        assert model.facts.native_side(config) > 0

    def test_the_family_of_its_pipelines_is_found(self, subject: Subject, model: LoadedModel) -> None:
        """By the class that the folder names."""
        index = json.loads((subject.folder / "model_index.json").read_text())
        assert index["_class_name"] in model.facts.pipelines
        assert subject.family.endswith(".py") or model.facts == families()[subject.family]

    def test_engine_equals_the_plain_loop(
        self, subject: Subject, model: LoadedModel, cells: tuple[list[Row], list[torch.Tensor]]
    ) -> None:
        """Whatever the options, and whatever else is in the batch."""
        found = self.drawn(model, subject, cells[0])
        assert max(difference(a, b) for a, b in zip(found, cells[1], strict=True)) < TOLERANCE

    @pytest.mark.parametrize("mutant", MUTANTS)
    def test_a_broken_engine_is_told_apart_tenfold(
        self, subject: Subject, model: LoadedModel, cells: tuple[list[Row], list[torch.Tensor]], mutant: str
    ) -> None:
        """So that the test above can fail."""
        if mutant.endswith("guidance") and not model.facts.guided:
            pytest.skip("distilled guidance has no halves")
        if mutant.endswith("source") and model.facts.stream == "fixed":
            pytest.skip("text that is the same at every step has one source")
        broken = [_broken(row, mutant, len(model.sites)) for row in cells[0]]
        found = self.drawn(model, subject, broken)
        # On pictures of random weights the sources differ by a thousandth: a tenth of what the others do.
        times = 1 if mutant.endswith("source") else 10
        assert max(difference(a, b) for a, b in zip(found, cells[1], strict=True)) > times * TOLERANCE

    def test_a_clean_row_and_an_identity_swap_equal_the_pipeline_alone(
        self, subject: Subject, model: LoadedModel
    ) -> None:
        """The donor is encoded apart from a prompt of the same text."""
        (prompt, _), every = PROMPTS[0], tuple(range(len(model.sites)))
        rows = [Row(prompt, prompt, 5), Row(prompt, prompt, 5, Intervention(every))]
        free = Plain(subject, model).free(prompt, 5)
        for latents in self.drawn(model, subject, rows, 4):
            assert difference(latents, free) < TOLERANCE

    def test_all_sites_with_the_pooled_text_are_the_donor_prompt(self, subject: Subject, model: LoadedModel) -> None:
        """In the conditional half nothing else carries the prompt to the image."""
        (prompt, donor), every = PROMPTS[1], tuple(range(len(model.sites)))
        pooled: Pooled = "donor" if model.facts.pooled else "prompt"
        rows = [Row(prompt, donor, 5, Intervention(every, pooled=pooled)), Row(prompt, donor, 5, Intervention(every))]
        both, sites_only = self.drawn(model, subject, rows, 4)
        plain = Plain(subject, model).free(donor, 5)
        assert difference(both, plain) < TOLERANCE
        assert (difference(sites_only, plain) > 10 * TOLERANCE) == bool(model.facts.pooled)

    def test_generation_leaves_the_pipeline_as_it_was(self, subject: Subject, model: LoadedModel) -> None:
        """No forward stays replaced, no hook stays."""
        self.drawn(model, subject, [Row(*PROMPTS[0], 0, Intervention((1,)))], 2)
        for module in model.family.denoiser(model.pipeline).modules():
            assert "forward" not in vars(module)
            assert not module._forward_hooks
            assert not module._forward_pre_hooks

    def test_rows_do_not_depend_on_their_company(self, subject: Subject, model: LoadedModel) -> None:
        """As a unit that is tried again row by row must give what it would have given."""
        rows = _rows(model, 4)
        together = self.drawn(model, subject, rows, 8)
        alone = torch.cat([self.drawn(model, subject, [row], 8) for row in rows])
        assert torch.allclose(together, alone, rtol=1e-5, atol=1e-5 * float(together.abs().max()))

    def test_a_clean_row_is_the_same_bit_for_bit_in_any_company(self, subject: Subject, model: LoadedModel) -> None:
        """In one place, one shape of batch, and with the same texts encoded: so that it is drawn once for many."""
        (prompt, donor), shape = PROMPTS[0], 4
        swapped = [Row(prompt, donor, 3, Intervention((site,))) for site in range(2)]
        rows = [Row(prompt, donor, 3), Row(donor, donor, 3), *swapped]
        (among,) = generate(model, rows, subject.settings, shape, read=rows)
        (alone,) = generate(model, rows[:1], subject.settings, shape, read=rows)
        assert torch.equal(among.images[0], alone.images[0])
        assert torch.equal(among.latents[0], alone.latents[0])

    @pytest.mark.parametrize("editor", EDITORS)
    def test_edits_apply_and_undo_bit_for_bit(self, subject: Subject, model: LoadedModel, editor: str) -> None:
        """At every site that admits one, with biases and without, and in text encoders."""
        before = {name: value.clone() for name, value in _weights(model)}
        delta = self.edited(model, editor)
        row = [Row(*PROMPTS[0], 0)]
        clean = self.drawn(model, subject, row, 2)
        with applied(model, delta, WEIGHTS):
            assert not torch.equal(self.drawn(model, subject, row, 2), clean)
            changed = {
                name.partition(".")[0] for name, value in _weights(model) if not torch.equal(value, before[name])
            }
        # Neurons that are held in the conditional half are no weights.
        places = set() if delta.runtime_only else set(delta.provenance.components)
        denoiser = model.family.denoiser(model.pipeline)
        assert changed == {
            part for part, module in _parts(model) if part in places or (module is denoiser and DENOISER in places)
        }
        assert all(torch.equal(value, before[name]) for name, value in _weights(model))
        assert torch.equal(self.drawn(model, subject, row, 2), clean)

    @pytest.mark.parametrize("half", ["conditional", "both"])
    def test_neurons_are_held_in_the_half_of_guidance_that_is_asked_for(
        self, subject: Subject, model: LoadedModel, half: HeldHalf
    ) -> None:
        """By the engine as by hooks on the pipeline's own call, and not as in the other half."""
        self.needs_editable(model)
        settings = EditSettings(editor="neurons", neurons=0.4, tokens="last_subject", guidance_half=half)
        delta, row = fit_edit(model, self.neurons_target(model), settings), [Row(*PROMPTS[0], 5)]
        with applied(model, delta, None):
            (found,) = self.drawn(model, subject, row, 4)
        denoiser, plain = model.family.denoiser(model.pipeline), Plain(subject, model)
        wanted = {}
        for name in ("conditional", "both"):
            with ExitStack() as stack:
                calls = Calls(model.facts.passes)
                stack.callback(denoiser.register_forward_pre_hook(calls.advance).remove)
                for change in delta.changes:
                    hook = _holding(change, calls, name)
                    stack.callback(denoiser.get_submodule(change.module).register_forward_hook(hook).remove)
                wanted[name] = plain.free(PROMPTS[0][0], 5)
        assert difference(found, wanted[half]) < TOLERANCE
        assert difference(found, plain.free(PROMPTS[0][0], 5)) > 10 * TOLERANCE
        if model.facts.guided:
            (other,) = wanted.keys() - {half}
            assert difference(found, wanted[other]) > 10 * TOLERANCE

    def test_loco_edit_reads_prompts_as_their_donors(self, model: LoadedModel) -> None:
        """K and V of the prompts' positions move towards those of the donors, measured in a forward pass."""
        self.needs_editable(model)
        prompt, donor = PROMPTS[0]
        site = model.sites[1]
        paths = (site.key_path, site.value_path)
        wanted, unedited = _read(model, donor, paths), _read(model, prompt, paths)
        target = Target("tiny", WEIGHTS, (1,), self.target(model).concepts[:1])
        with applied(model, fit_edit(model, target, EditSettings(strength=1e-6)), WEIGHTS):
            edited = _read(model, prompt, paths)
        words = model.family.encode(model.pipeline, [prompt]).words[0]
        for path in paths:
            if model.facts.stream == "fixed":
                change = edited[path][:, words] - unedited[path][:, words]
                towards = wanted[path][:, words] - unedited[path][:, words]
                assert float((change * towards).sum()) > 0
            assert not torch.equal(edited[path], unedited[path])

    @pytest.mark.parametrize("editor", ["loco_edit", "diff_quick_fix"])
    def test_an_edited_pipeline_is_what_plain_diffusers_loads(
        self, subject: Subject, model: LoadedModel, tmp_path: Path, editor: str
    ) -> None:
        """Saved with the edit, loaded without this project, it draws the same."""
        self.check_export(subject, model, tmp_path, self.edited(model, editor))

    def test_neurons_of_both_halves_are_weights_where_projections_have_biases(
        self, subject: Subject, model: LoadedModel, tmp_path: Path
    ) -> None:
        """Elsewhere, and of the conditional half alone, the edit says why it is none."""
        self.needs_editable(model)
        target = self.neurons_target(model)
        settings = EditSettings(editor="neurons", neurons=0.4, tokens="last_subject", guidance_half="both")
        delta = fit_edit(model, target, settings)
        biased = all(projection(model, change.module).bias is not None for change in delta.changes)
        if biased:
            assert not delta.runtime_only
            self.check_export(subject, model, tmp_path, delta)
        else:
            assert "no bias" in delta.runtime_only
        conditional = fit_edit(model, target, settings.model_copy(update={"guidance_half": "conditional"}))
        assert "cannot tell the halves" in conditional.runtime_only

    def check_export(self, subject: Subject, model: LoadedModel, folder: Path, delta: WeightDelta) -> None:
        """Fails unless plain diffusers draws with the saved edit what the engine draws with it."""
        import diffusers

        with applied(model, delta, WEIGHTS):
            model.pipeline.save_pretrained(folder)
            edited = self.drawn(model, subject, [Row(*PROMPTS[0], 0)], 2)[0]
        # Diffusers wants to be told of some parts that a pipeline lacks, such as the third text encoder of SD3.
        index = json.loads((folder / "model_index.json").read_text())
        lacking = {name: None for name, part in index.items() if part == [None, None]}
        loaded = diffusers.DiffusionPipeline.from_pretrained(folder, use_safetensors=True, **lacking)
        loaded.set_progress_bar_config(disable=True)
        plain = LoadedModel(loaded, model.family, model.facts, model.sites, "cpu", "float32")
        assert difference(Plain(subject, plain).free(PROMPTS[0][0], 0), edited) < TOLERANCE

    def test_a_site_shared_with_the_image_admits_no_edit(self, model: LoadedModel) -> None:
        """Said plainly, and before anything is computed."""
        shared = [site.index for site in model.sites if not site.text_only]
        for site in shared[:1]:
            with pytest.raises(EditError, match="one K and V for text and image"):
                fit_edit(model, Target("tiny", WEIGHTS, (site,), self.target(model).concepts), EditSettings())
        sites = [site.index for site in model.sites if site.text_only]
        for path in module_paths(model, sites):
            assert isinstance(projection(model, path), torch.nn.Linear)

    def needs_editable(self, model: LoadedModel) -> None:
        """Skips where every site is shared with the image, which the test below shows to admit no edit."""
        if not any(site.text_only for site in model.sites):
            assert all(site.name.startswith(model.facts.shared) for site in model.sites)
            pytest.skip("every site shares K and V with the image")

    def edited(self, model: LoadedModel, editor: str) -> WeightDelta:
        """An edit by one of the editors; skips where the family has nothing that it could change, and says so."""
        self.needs_editable(model)
        info, target = editor_info(editor), self.target(model)
        settings = EditSettings(editor=editor, neurons=0.2)
        if info.place is not None and info.published is not None:
            settings = EditSettings(editor=editor, tokens=info.published.tokens, strength=info.published.strength)
        if info.fixed_text and model.facts.stream == "evolving":
            with pytest.raises(EditError, match="text and image attend to each other"):
                fit_edit(model, target, settings)
            pytest.skip("what its sites read of a text is another at every step")
        if info.place == "text_encoder":
            target = replace(target, sites=())
            if not model.facts.clip_encoders:
                with pytest.raises(EditError, match="edits the CLIP text encoder"):
                    fit_edit(model, target, settings)
                pytest.skip("its text is not CLIP's")
            delta = fit_edit(model, target, settings)
            assert delta.provenance.components == model.facts.clip_encoders
            return delta
        return fit_edit(model, target, settings)

    def target(self, model: LoadedModel) -> Target:
        """An edit at all sites that admit one."""
        sites = tuple(site.index for site in model.sites if site.text_only)
        concepts = tuple(Concept("style/x", (PromptRecord(*pair, "", "", ""),)) for pair in PROMPTS)
        return Target("tiny", WEIGHTS, sites, concepts)

    def neurons_target(self, model: LoadedModel) -> Target:
        """The same with both prompts in one concept: neurons are ranked by how they vary over prompts."""
        records = tuple(PromptRecord(*pair, "", "", "") for pair in PROMPTS)
        return replace(self.target(model), concepts=(Concept("style/x", records),))


def _holding(change: Change, calls: Calls, half: str) -> Callable[..., torch.Tensor]:
    """Returns a hook that holds a change's neurons in the conditional half of guidance, or in both."""
    values = next(part for part in (change.conditional, change.constant, change.bias) if part is not None)

    def hook(_: torch.nn.Module, __: object, output: torch.Tensor) -> torch.Tensor:
        output = output.clone()
        for row, of in enumerate(calls.halves):
            if half in (of, "both"):
                output[row][:, change.rows] = values
        return output

    return hook


def _parts(model: LoadedModel) -> list[tuple[str, torch.nn.Module]]:
    """Returns the parts of a pipeline that have weights, by name."""
    return [(name, part) for name, part in model.pipeline.components.items() if isinstance(part, torch.nn.Module)]


def _weights(model: LoadedModel) -> list[tuple[str, torch.Tensor]]:
    """Returns all weights of a pipeline, their names beginning with that of the part."""
    return [(f"{part}.{name}", value) for part, module in _parts(model) for name, value in module.state_dict().items()]


def _broken(row: Row, mutant: str, sites: int) -> Row:
    """Returns a row as an engine with a mistake would take it."""
    does = row.intervention
    if mutant == "window off by one":
        does = replace(does, sites=tuple(sorted((site + 1) % sites for site in does.sites)))
    elif mutant == "K and V exchanged":
        does = replace(does, part=EXCHANGED[does.part])
    elif mutant == "another source":
        does = replace(does, source=OTHER_SOURCE[does.source])
    else:
        does = replace(does, guidance_half=OTHER_HALF[does.guidance_half])
    return replace(row, intervention=does)


def _read(model: LoadedModel, text: str, paths: tuple[str, ...]) -> dict[str, torch.Tensor]:
    encoded = model.family.encode(model.pipeline, [text])
    with outputs(model.family.denoiser(model.pipeline), paths) as found, torch.no_grad():
        model.family.forward(model.pipeline, encoded)
    return found
