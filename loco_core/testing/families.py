"""The contract of a family of models, to be inherited by the tests of one.

class TestMine(FamilyContract):
    @pytest.fixture(scope="class")
    def subject(self, tmp_path_factory) -> Subject:
        return Subject("./mine.py", save_a_tiny_pipeline(tmp_path_factory.mktemp("mine")))
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from loco_core.deltas import applied, module_paths, projection
from loco_core.editors import Concept, EditSettings, Target, fit_edit
from loco_core.errors import EditError
from loco_core.generate import generate
from loco_core.models import LoadedModel, families, load_model
from loco_core.sites import outputs
from loco_core.testing.traces import TracesContract
from loco_core.types import Generation, GuidanceHalf, Intervention, Part, Pooled, PromptRecord, Row

PROMPTS = (
    ("a red circle in the style of lumio", "a blue star"),
    ("a photo of a green square", "a photo of a yellow moon in the style of velor"),
)
STEPS, CELLS, TOLERANCE = 3, 16, 1e-4
WEIGHTS = "w" * 64
# What an engine with a mistake takes instead.
EXCHANGED: dict[Part, Part] = {"kv": "kv", "k": "v", "v": "k"}
OTHER_HALF: dict[GuidanceHalf, GuidanceHalf] = {
    "conditional": "unconditional", "unconditional": "conditional", "both": "both"
}  # fmt: skip


@dataclass(frozen=True)
class Subject:
    """A family under test.

    Attributes:
        family: its key, or its file.
        folder: a tiny pipeline, saved by diffusers.
        arguments: of the pipeline's call, without which it would not draw as the engine asks it to.
        guidance_scale: of the generations.
        side: of an image in pixels; None is the pipeline's default.
    """

    family: str
    folder: Path
    arguments: Mapping[str, Any] = field(default_factory=dict)
    guidance_scale: float = 3.0
    side: int | None = None

    @property
    def settings(self) -> Generation:
        """How all images of the suite are generated."""
        return Generation(STEPS, self.guidance_scale, self.side, self.side)

    def load(self) -> LoadedModel:
        """Loads the pipeline as a sweep does."""
        return load_model(self.family, str(self.folder), None, "float32", "cpu")


class Plain:
    """The paper's intervention through the pipeline's own call with sentences, one image at a time, hook by hook.

    It shares nothing with the engine: the donor is drawn first, alone, and what its conditional half makes of the text
    at every site and step is noted; then the prompt is drawn, and hooks overwrite its rows with that.
    """

    def __init__(self, subject: Subject, model: LoadedModel) -> None:
        self._subject, self._model = subject, model
        self._denoiser = model.family.denoiser(model.pipeline)
        self._guided = model.facts.guided

    def free(self, text: str, seed: int) -> torch.Tensor:
        """Returns the final latents of a sentence, drawn by the pipeline alone."""
        latents: list[torch.Tensor] = []

        def keep(*given: Any) -> Any:
            latents[:] = [given[3]["latents"] if isinstance(given[-1], dict) else given[2]]
            return given[3] if isinstance(given[-1], dict) else None

        old = type(self._model.pipeline).__name__.startswith(("IF", "PixArt"))
        watch: dict[str, Any] = {"callback": keep, "callback_steps": 1} if old else {"callback_on_step_end": keep}
        sides = {"height": self._subject.side, "width": self._subject.side} if self._subject.side else {}
        self._model.pipeline(
            text, num_inference_steps=STEPS, guidance_scale=self._subject.guidance_scale, output_type="pt",
            generator=[torch.Generator().manual_seed(seed)], **sides, **watch, **self._subject.arguments,
        )  # fmt: skip
        return latents[0][0]

    def draw(self, row: Row) -> torch.Tensor:
        """Returns the final latents of a row with its intervention."""
        does, taken = row.intervention, self._taken(row)
        seen = self._watched(row)
        step = {"now": -1}
        with ExitStack() as stack:
            stack.enter_context(_Removing(self._denoiser.register_forward_pre_hook(lambda *_: _advance(step))))
            for index in does.sites:
                site = self._model.sites[index]
                for letter, path in (("k", site.key_path), ("v", site.value_path)):
                    if letter in does.part:
                        module = self._denoiser.get_submodule(path)
                        hook = self._overwrite(seen[path], step, row, taken)
                        stack.enter_context(_Removing(module.register_forward_hook(hook)))
                name = site.key_path.rpartition(".")[0]
                if name in seen and "k" in does.part:
                    hook = self._masked(seen[name], step, row, taken)
                    attention = self._denoiser.get_submodule(name)
                    stack.enter_context(_Removing(attention.register_forward_pre_hook(hook, with_kwargs=True)))
            return self.free(row.prompt, row.seed)

    def _halves(self, does: Intervention) -> tuple[int, ...]:
        names = ("unconditional", "conditional") if self._guided else ("conditional",)
        return tuple(at for at, name in enumerate(names) if does.guidance_half in (name, "both"))

    def _taken(self, row: Row) -> dict[int, torch.Tensor]:
        """Returns which positions each half takes from the donor."""
        halves = self._halves(row.intervention)
        own = [row.prompt if half == 1 or not self._guided else "" for half in halves]
        words = self._model.family.encode(self._model.pipeline, [*own, row.donor]).words
        either = {half: words[number] | words[-1] for number, half in enumerate(halves)}
        kind = row.intervention.tokens
        return {
            half: torch.ones_like(found) if kind == "all" else found if kind == "words" else ~found
            for half, found in either.items()
        }

    def _watched(self, row: Row) -> dict[str, list[torch.Tensor]]:
        """Returns what the donor's conditional half made at every step, by module; masks by attention."""
        seen: dict[str, list[torch.Tensor]] = {}
        with ExitStack() as stack:
            for index in row.intervention.sites:
                site = self._model.sites[index]
                for path in (site.key_path, site.value_path):
                    hook = _note(seen.setdefault(path, []))
                    stack.enter_context(_Removing(self._denoiser.get_submodule(path).register_forward_hook(hook)))
                name = site.key_path.rpartition(".")[0]
                attention = self._denoiser.get_submodule(name)
                stack.enter_context(
                    _Removing(attention.register_forward_pre_hook(_note_mask(seen, name), with_kwargs=True))
                )
            self.free(row.donor, row.seed)
        return seen

    def _overwrite(
        self, seen: list[torch.Tensor], step: dict[str, int], row: Row, taken: dict[int, torch.Tensor]
    ) -> Callable[..., torch.Tensor]:
        does = row.intervention

        def hook(_: Any, __: Any, output: torch.Tensor) -> torch.Tensor:
            output = output.clone()
            if does.step_start <= step["now"] < (STEPS if does.step_end is None else does.step_end):
                for half, positions in taken.items():
                    count = len(positions)
                    output[half, :count][positions] = seen[step["now"]][:count][positions]
            return output

        return hook

    def _masked(
        self, seen: list[torch.Tensor], step: dict[str, int], row: Row, taken: dict[int, torch.Tensor]
    ) -> Callable[..., Any]:
        does = row.intervention

        def hook(_: Any, args: Any, kwargs: dict[str, Any]) -> Any:
            mask = kwargs["attention_mask"].clone()
            if does.step_start <= step["now"] < (STEPS if does.step_end is None else does.step_end):
                for half, positions in taken.items():
                    mask[half, 0, positions] = seen[step["now"]][0, positions]
            return args, {**kwargs, "attention_mask": mask}

        return hook


class _Removing:
    """Removes a hook at the end of a ``with`` block."""

    def __init__(self, handle: Any) -> None:
        self._handle = handle

    def __enter__(self) -> None:
        return None

    def __exit__(self, *_: object) -> None:
        self._handle.remove()


def _advance(step: dict[str, int]) -> None:
    step["now"] += 1


def _note(calls: list[torch.Tensor]) -> Callable[..., None]:
    def hook(_: Any, __: Any, output: torch.Tensor) -> None:
        calls.append(output[-1].clone())

    return hook


def _note_mask(seen: dict[str, list[torch.Tensor]], name: str) -> Callable[..., None]:
    def hook(_: Any, __: Any, kwargs: dict[str, Any]) -> None:
        if kwargs.get("attention_mask") is not None:
            seen.setdefault(name, []).append(kwargs["attention_mask"][-1].clone())

    return hook


def random_rows(sites: int, *, guided: bool, count: int = CELLS) -> list[Row]:
    """Draws cells over all options; clean ones and donors outright among them."""
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
        )
        rows.append(Row(prompt, donor, rng.randrange(3), does))
    return rows


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
        rows, plain = random_rows(len(model.sites), guided=model.facts.guided), Plain(subject, model)
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

    @pytest.mark.parametrize("mutant", ["window off by one", "K and V exchanged", "another half of guidance"])
    def test_a_broken_engine_is_told_apart_tenfold(
        self, subject: Subject, model: LoadedModel, cells: tuple[list[Row], list[torch.Tensor]], mutant: str
    ) -> None:
        """So that the test above can fail."""
        if mutant.endswith("guidance") and not model.facts.guided:
            pytest.skip("distilled guidance has no halves")
        broken = [_broken(row, mutant, len(model.sites)) for row in cells[0]]
        found = self.drawn(model, subject, broken)
        assert max(difference(a, b) for a, b in zip(found, cells[1], strict=True)) > 10 * TOLERANCE

    def test_a_clean_row_and_an_identity_swap_equal_the_pipeline_alone(
        self, subject: Subject, model: LoadedModel
    ) -> None:
        """The donor is encoded apart from a prompt of the same text."""
        (prompt, _), every = PROMPTS[0], tuple(range(len(model.sites)))
        rows = [Row(prompt, prompt, 5), Row(prompt, prompt, 5, Intervention(every))]
        free = Plain(subject, model).free(prompt, 5)
        for latents in self.drawn(model, subject, rows, 4):
            assert difference(latents, free) < TOLERANCE

    def test_all_sites_with_the_pooled_text_are_the_donor_outright(self, subject: Subject, model: LoadedModel) -> None:
        """In the conditional half nothing else carries the prompt to the image."""
        (prompt, donor), every = PROMPTS[1], tuple(range(len(model.sites)))
        pooled: Pooled = "donor" if model.facts.pooled else "prompt"
        rows = [Row(prompt, donor, 5, Intervention(every, pooled=pooled)), Row(prompt, donor, 5, Intervention(every))]
        both, sites_only = self.drawn(model, subject, rows, 4)
        outright = Plain(subject, model).free(donor, 5)
        assert difference(both, outright) < TOLERANCE
        assert (difference(sites_only, outright) > 10 * TOLERANCE) == bool(model.facts.pooled)

    def test_generation_leaves_the_pipeline_as_it_was(self, subject: Subject, model: LoadedModel) -> None:
        """No forward stays replaced, no hook stays."""
        self.drawn(model, subject, [Row(*PROMPTS[0], 0, Intervention((1,)))], 2)
        for module in model.family.denoiser(model.pipeline).modules():
            assert "forward" not in vars(module)
            assert not module._forward_hooks
            assert not module._forward_pre_hooks

    def test_rows_do_not_depend_on_their_company(self, subject: Subject, model: LoadedModel) -> None:
        """As a unit that is tried again row by row must give what it would have given."""
        rows = random_rows(len(model.sites), guided=model.facts.guided, count=4)
        together = self.drawn(model, subject, rows, 8)
        alone = torch.cat([self.drawn(model, subject, [row], 8) for row in rows])
        assert torch.allclose(together, alone, rtol=1e-5, atol=1e-5 * float(together.abs().max()))

    @pytest.mark.parametrize("editor", ["loco_edit", "neurons"])
    def test_edits_apply_and_undo_bit_for_bit(self, subject: Subject, model: LoadedModel, editor: str) -> None:
        """At every site that admits one, with biases and without."""
        denoiser = model.family.denoiser(model.pipeline)
        before = {name: value.clone() for name, value in denoiser.state_dict().items()}
        delta = fit_edit(model, self.target(model), EditSettings(editor=editor, neurons=0.2))
        row = [Row(*PROMPTS[0], 0)]
        clean = self.drawn(model, subject, row, 2)
        with applied(model, delta, WEIGHTS):
            assert not torch.equal(self.drawn(model, subject, row, 2), clean)
        assert all(torch.equal(value, before[name]) for name, value in denoiser.state_dict().items())
        assert torch.equal(self.drawn(model, subject, row, 2), clean)

    def test_loco_edit_reads_prompts_as_their_donors(self, model: LoadedModel) -> None:
        """K and V of the prompts' positions move towards those of the donors, measured in a forward pass."""
        prompt, donor = PROMPTS[0]
        site = model.sites[1]
        paths = (site.key_path, site.value_path)
        wanted, unedited = _read(model, donor, paths), _read(model, prompt, paths)
        target = Target("tiny", WEIGHTS, (1,), self.target(model).concepts[:1])
        with applied(model, fit_edit(model, target, EditSettings(strength=1e-6)), WEIGHTS):
            edited = _read(model, prompt, paths)
        words = int(model.family.encode(model.pipeline, [prompt]).words.sum(1)[0])
        for path in paths:
            if model.facts.stream == "fixed":
                change = edited[path][:, :words] - unedited[path][:, :words]
                towards = wanted[path][:, :words] - unedited[path][:, :words]
                assert float((change * towards).sum()) > 0
            assert not torch.equal(edited[path], unedited[path])

    def test_an_edited_pipeline_is_what_plain_diffusers_loads(
        self, subject: Subject, model: LoadedModel, tmp_path: Path
    ) -> None:
        """Saved with the edit, loaded without this project, it draws the same."""
        import diffusers

        delta = fit_edit(model, self.target(model), EditSettings(strength=0.1))
        with applied(model, delta, WEIGHTS):
            model.pipeline.save_pretrained(tmp_path)
            edited = self.drawn(model, subject, [Row(*PROMPTS[0], 0)], 2)[0]
        loaded = diffusers.DiffusionPipeline.from_pretrained(tmp_path, use_safetensors=True)
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

    def target(self, model: LoadedModel) -> Target:
        """An edit at all sites that admit one."""
        sites = tuple(site.index for site in model.sites if site.text_only)
        concepts = tuple(Concept("style/x", (PromptRecord(*pair, "", "", ""),)) for pair in PROMPTS)
        return Target("tiny", WEIGHTS, sites, concepts)


def _broken(row: Row, mutant: str, sites: int) -> Row:
    """Returns a row as an engine with a mistake would take it."""
    does = row.intervention
    if mutant == "window off by one":
        does = replace(does, sites=tuple(sorted((site + 1) % sites for site in does.sites)))
    elif mutant == "K and V exchanged":
        does = replace(does, part=EXCHANGED[does.part])
    else:
        does = replace(does, guidance_half=OTHER_HALF[does.guidance_half])
    return replace(row, intervention=does)


def _read(model: LoadedModel, text: str, paths: tuple[str, ...]) -> dict[str, torch.Tensor]:
    encoded = model.family.encode(model.pipeline, [text])
    with outputs(model.family.denoiser(model.pipeline), paths) as found, torch.no_grad():
        model.family.forward(model.pipeline, encoded)
    return found
