"""The neuron edit: the output coordinates of K and V that tell the attribute from its donor (Basu et al., section 6).

Coordinates are ranked by ``z = (mean under prompts - mean under donors) / sqrt(var / n + var / n)`` at one position of
every prompt, each projection by itself. Those with the largest ``|z|`` are held at their mean under the donors there,
at all positions of the text, in the conditional half of guidance. No weight changes.

As published, the position is the last of the padding, and 10 to 200 coordinates of each projection are held. Our
default is the last word of what the donor changes, and a share of the coordinates. Measured on the bundled planted
models (`benchmarks.published`): a quarter of them takes a style away in most pictures, and other styles in some; a fact
takes half, which takes other facts away too. As many drawn at random take next to nothing away.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from loco_core.diffusion.model import LoadedModel
from loco_core.editing.base import ALL_SITES, WINDOWS, Baseline, EditorInfo, EditSettings, Setting, Target
from loco_core.editing.deltas import Change, WeightDelta, module_paths, projection
from loco_core.errors import EditError

if TYPE_CHECKING:
    import torch

    from loco_core.editing.token_pairs import TokenPairs

TINY = 1e-12


def edit(model: LoadedModel, target: Target, settings: EditSettings) -> tuple[Change, ...]:
    """Fits the neuron edit; see :class:`loco_core.editing.base.Editor`.

    With several concepts each brings its own neurons.
    """
    from loco_core.editing.token_pairs import token_pairs

    paths = module_paths(model, target.sites)
    modules = [projection(model, path) for path in paths]
    chosen: dict[str, dict[int, float]] = {path: {} for path in paths}
    for concept in target.concepts:
        read = token_pairs(model, concept, settings.tokens, target.sites)
        if len(read[0].keys) < 2:
            raise EditError(
                f"{concept.attribute}: neurons are ranked by how they vary over prompts, and there is one position "
                f"of one prompt to fit on; take more prompts, or other tokens than {settings.tokens}"
            )
        for number, (path, module) in enumerate(zip(paths, modules, strict=True)):
            # K and V of a site read the same.
            scores, means = _statistics(module, read[number // 2])
            best = scores.abs().argsort(descending=True, stable=True)[: _count(settings.neurons, module, path)]
            chosen[path] |= {row: float(means[row]) for row in best.tolist()}
    return tuple(_change(module, path, chosen[path], settings) for path, module in zip(paths, modules, strict=True))


def _count(neurons: float, module: torch.nn.Linear, path: str) -> int:
    count = int(neurons) if neurons > 1 else max(1, round(neurons * module.out_features))
    if count > module.out_features:
        raise EditError(
            f"{path} has {module.out_features} neurons, and {count} were asked for; take fewer, or a share up to 1"
        )
    return count


def random_neurons(
    model: LoadedModel, target: Target, settings: EditSettings, delta: WeightDelta, seed: int
) -> WeightDelta:
    """Returns the same edit of as many other neurons of each projection, drawn at random: its baseline.

    Args:
        model: what the delta was fitted on.
        target: what it was fitted for.
        settings: of the edit.
        delta: the edit; where it leaves too few neurons, its own may be drawn too.
        seed: seed of the draw.
    """
    import numpy as np

    from loco_core.editing.token_pairs import token_pairs

    rng, changes = np.random.default_rng(seed), []
    read = token_pairs(model, target.concepts[0], settings.tokens, target.sites)
    by_path = {path: read[at // 2] for at, path in enumerate(module_paths(model, target.sites))}
    for change in delta.changes:
        module = projection(model, change.module)
        width, count = module.out_features, len(change.rows)
        others = np.setdiff1d(np.arange(width), change.rows.numpy())
        rows = rng.choice(others if len(others) >= count else width, count, replace=False)
        _, means = _statistics(module, by_path[change.module])
        held = {int(row): float(means[row]) for row in rows}
        changes.append(_change(module, change.module, held, settings))
    return WeightDelta(delta.provenance, tuple(changes))


def _statistics(module: torch.nn.Linear, pairs: TokenPairs) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns z-score and donor mean of every output coordinate, both ``(width,)``."""
    weight = module.weight.detach().double().cpu()
    bias = 0.0 if module.bias is None else module.bias.detach().double().cpu()
    present, absent = pairs.keys @ weight.T + bias, pairs.donors @ weight.T + bias
    spread = ((present.var(0) + absent.var(0)) / len(present)).sqrt()
    return (present.mean(0) - absent.mean(0)) / (spread + TINY), absent.mean(0)


def _change(module: torch.nn.Linear, path: str, held: dict[int, float], settings: EditSettings) -> Change:
    import torch

    rows = torch.tensor(sorted(held))
    values = torch.tensor([held[int(row)] for row in rows], dtype=module.weight.dtype)
    if settings.fill == "zero":
        values = torch.zeros_like(values)
    if settings.guidance_half == "conditional":
        return Change(path, rows, conditional=values)
    # In both halves weights may say it: nothing that is read counts, and the bias alone is left.
    weight = torch.zeros(len(rows), module.in_features, dtype=module.weight.dtype)
    if module.bias is not None:
        return Change(path, rows, weight, bias=values)
    return Change(path, rows, weight, constant=None if settings.fill == "zero" else values)


def columns(settings: EditSettings, delta: WeightDelta) -> Mapping[str, Any]:
    """Returns what ``edits`` says of an edit: how many neurons it holds, and in which half of guidance."""
    return {"neurons": sum(len(change.rows) for change in delta.changes), "guidance_half": settings.guidance_half}


INFO = EditorInfo(
    settings=(
        Setting("tokens", "neuron_tokens", choices=("last_subject", "last_position")),
        Setting("neurons", "neurons", span=(0.03, 0.6), column="neurons", words="{:.0%} of neurons"),
    ),
    options=("fill", "guidance_half"),
    preserves=(),
    baselines=(
        ALL_SITES, WINDOWS,
        Baseline("random", "as many neurons drawn at random", "random neurons", make=random_neurons),
    ),
    several="neurons are ranked by how they vary over prompts",
    columns=columns,
    methods="Neurons are the output coordinates of each K and V projection that differ most between prompts and "
    "donors, held at the donors' mean or at zero while pictures are drawn.",
)  # fmt: skip
