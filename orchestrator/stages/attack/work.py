"""What a worker does with an attack: make clean pictures, attack, draw the prompts, and say what is seen."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from loco_core.attacking.base import AttackTask, Clean, attack_id, attack_settings, attacked
from loco_core.diffusion.generate import generate
from loco_core.diffusion.model import LoadedModel, load_model
from loco_core.editing.deltas import applied
from loco_core.errors import SpecError
from loco_core.scoring.base import margin_of
from loco_core.types import PromptRecord, Row
from orchestrator.scheduler.protocol import Attempt, Unit
from orchestrator.stages.attack.plan import FIRST_CLEAN_SEED, TRIES, Attacking, seeds_of
from orchestrator.stages.context import Result, WorkerContext
from orchestrator.stages.edit.fitting import Fitter
from orchestrator.stages.edit.plan import INVALID
from orchestrator.store import SCHEMA_VERSION, make_table

if TYPE_CHECKING:
    import torch

logger = logging.getLogger(__name__)
_Shown = tuple["torch.Tensor", PromptRecord]
"""A picture, and what it was drawn from."""


@dataclass(frozen=True)
class _Seen:
    """What is seen in one picture: whether it is one, what its prompt says, what is named, and whether that is it."""

    valid: bool
    said: str | None
    named: str
    margin: float | None
    returned: bool


def work(context: WorkerContext, unit: Unit, attempt: Attempt) -> Result:
    """Attacks a model; gives one row of ``attacks`` per picture."""
    began = time.monotonic()
    planned: Attacking = unit.payload
    if attack_id(planned.choice.use) != planned.attack:
        raise SpecError(
            f"the attack {planned.choice.use} is not the one that this unit was planned with; leave its file alone "
            "while attacks are made, and start the command again"
        )
    clean, shown = _clean(context, planned)
    with _model(context, planned) as model:
        pictures = _attacked(context, planned, model, clean, row_by_row=attempt.row_by_row)
    seen = _seen(context, planned, pictures, [probe.record for probe in planned.probes])
    rows_of_table = _rows(context, unit, attempt, seen, shown, time.monotonic() - began)
    table = make_table("attacks", list(rows_of_table))
    invalid = sum(not item.valid for item in seen)
    return Result({"attacks": table}, rows=len(seen) - invalid, invalid=invalid)


def _attacked(
    context: WorkerContext, planned: Attacking, model: LoadedModel, clean: Clean, *, row_by_row: bool
) -> torch.Tensor:
    """Returns pictures of all probes, in their order, each seed drawn with an attack of its own.

    The same noise and clean pictures for all that is attacked: what they differ in is the model.
    """
    import torch

    wanted, found = attack_settings(planned.choice).pictures, dict[int, torch.Tensor]()
    for turn, seed in enumerate(seeds_of(planned.probes)):
        task = AttackTask(
            _share_of(clean, turn, wanted), context.generation, planned.batch_size, FIRST_CLEAN_SEED + turn
        )
        places = [place for place, probe in enumerate(planned.probes) if probe.seed == seed]
        records = [planned.probes[place].record for place in places]
        rows = [Row(record.prompt, record.donor, seed) for record in records]
        with attacked(model, planned.choice, task) as draw:
            drawn = [picture for part in ([[row] for row in rows] if row_by_row else [rows]) for picture in draw(part)]
        found.update(zip(places, drawn, strict=True))
    return torch.stack([found[place] for place in range(len(planned.probes))])


def _share_of(clean: Clean, turn: int, wanted: int) -> Clean:
    """Returns the clean pictures of one seed's attack; where there are too few for all, some are given to several."""
    count = len(clean.records)
    numbers = list(dict.fromkeys((turn * wanted + i) % count for i in range(wanted)))
    return Clean(clean.pictures[numbers], tuple(clean.records[number] for number in numbers))


@contextmanager
def _model(context: WorkerContext, planned: Attacking) -> Iterator[LoadedModel]:
    """Yields what is attacked: the worker's model, with the edit if there is one, or the floor."""
    if (info := planned.floor) is not None:
        # Beside the worker's own, which draws the clean pictures; it goes with this unit.
        yield load_model(
            info.family, info.path, info.revision, info.dtype, context.model.device, info.engine, extras=info.extras
        )
        return
    edit = planned.edit
    change: AbstractContextManager[None] = nullcontext()
    if edit is not None:
        change = applied(context.model, Fitter(context, planned).fit(edit), context.info.weights)
    with change:
        yield context.model


def _clean(context: WorkerContext, planned: Attacking) -> tuple[Clean, int]:
    """Draws pictures without an edit, from prompts that edits are fitted on: those that show the attribute, if any do.

    As many as the attacks of all seeds are given. Where none of many shows it, the first are taken: the ceiling says
    then that there is nothing to bring back.

    Returns:
        the pictures, and how many of them show it.
    """
    import torch

    wanted = attack_settings(planned.choice).pictures * len(seeds_of(planned.probes))
    key = ("clean pictures", planned.attribute.key, planned.records, wanted, planned.batch_size)
    if (held := context.kept.get(key)) is not None:
        found: tuple[Clean, int] = held
        return found
    records, every, kept = planned.records, list[_Shown](), list[_Shown]()
    rows = [
        Row(record.prompt, record.donor, FIRST_CLEAN_SEED + i)
        for i in range(wanted * TRIES)
        for record in (records[i % len(records)],)
    ]
    for part in generate(context.model, rows, context.generation, planned.batch_size):
        drawn = [records[(len(every) + i) % len(records)] for i in range(len(part.images))]
        seen = _seen(context, planned, part.images, drawn)
        pairs = list(zip(part.images, drawn, strict=True))
        every += pairs
        kept += [pair for pair, item in zip(pairs, seen, strict=True) if item.returned]
        if len(kept) >= wanted:
            break
    taken, shown = (kept or every)[:wanted], min(len(kept), wanted)
    if not kept:
        logger.warning(
            "%s shows %s in none of %d pictures of its own prompts: attacks have no clean picture to work with",
            context.info.id, planned.attribute.key, len(every),
        )  # fmt: skip
    clean = Clean(torch.stack([picture for picture, _ in taken]), tuple(record for _, record in taken))
    context.kept.put(key, (clean, shown), clean.pictures.numel() * clean.pictures.element_size())
    return clean, shown


def _seen(
    context: WorkerContext, planned: Attacking, pictures: torch.Tensor, records: Sequence[PromptRecord]
) -> list[_Seen]:
    """Says of pictures whether they show the attribute: by the judge, or where it has no such kind by the margin."""
    kind, judge = planned.attribute.kind, context.judge
    names: list[str] | None = None
    if judge is not None and kind in judge.kinds:
        names = judge.name(judge.embed_images(pictures), kind)
    embeddings, found = context.scorer.embed_images(pictures), list[_Seen]()
    for i, record in enumerate(records):
        said = judge.said(record.prompt, kind) if judge is not None and names is not None else record.score_text
        if not context.is_valid(pictures[i]):
            found.append(_Seen(False, said, INVALID, None, False))
            continue
        texts = [record.score_text, *record.against]
        scores = context.scorer.score(embeddings[i : i + 1], texts)[0]
        here, there = margin_of(scores)
        best = texts[0] if here > there else texts[1 + int(scores[1:].argmax())]
        named = best if names is None else names[i]
        found.append(_Seen(True, said, named, here - there, named == said))
    return found


def _rows(
    context: WorkerContext, unit: Unit, attempt: Attempt, seen: Sequence[_Seen], shown: int, seconds: float
) -> Iterator[dict[str, Any]]:
    planned: Attacking = unit.payload
    edit, floor = planned.edit, planned.floor
    judged = context.judge is not None and planned.attribute.kind in context.judge.kinds
    common = {
        "sweep_id": context.sweep_id, "unit_id": unit.unit_id, "model": unit.model,
        "model_revision": floor.weights_id if floor else context.info.weights_id, "attribute": planned.attribute.key,
        "attribute_kind": planned.attribute.kind, "edit_id": edit and edit.edit_id,
        "editor": edit and edit.settings.editor, "scope": edit and edit.scope, "attack": planned.attack,
        "settings": planned.settings, "who": planned.who, "floor": floor and floor.id,
        "clean": shown,
        "scorer": context.scorer_info.name, "seconds": seconds / max(1, len(seen)), "batch_size": planned.batch_size,
        "device": context.device, "torch_version": context.torch_version, "attempt": attempt.number,
        "schema_version": SCHEMA_VERSION,
    }  # fmt: skip
    for probe, item in zip(planned.probes, seen, strict=True):
        yield {
            **common, "template_id": probe.record.template_id, "prompt": probe.record.prompt,
            "clip_text": probe.record.score_text, "seed": probe.seed, "judge": probe.judge if judged else None,
            "judge_said": item.said, "judge_seen": item.named, "returned": item.returned, "score": item.margin,
            "status": "ok" if item.valid else "invalid",
        }  # fmt: skip
