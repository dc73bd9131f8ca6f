"""The reference of models, their sites and the sweeps after publications."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import groupby

from loco_core.checking.certificate import BUNDLED, Certificate, read_folder
from loco_core.diffusion.facts import FamilyInfo, ModelInfo, families, known_models
from loco_core.diffusion.unserved import KINDS, REASONS
from loco_core.localization.base import LocalizeSettings
from orchestrator.presets import presets, published
from orchestrator.runs.certificates import of_model, status_of
from tools.docs.markdown import code, page, table

INTRODUCTION = """\
A sweep names a model by its id (`models: [sd15]`), or gives a folder or a hub id of a diffusers pipeline
(`{id: mine, path: ./my-pipeline}`) of one of the families below. A *site* is a pair of K and V projections where text
enters the denoiser. Sites are counted from 0 in execution order. `loco-sweep models NAME` prints all sites of a model.

Sites of published models are counted from their published configuration. All families pass the same tests, on small
random pipelines of the real classes.

*Status* is what [`loco-sweep check`](../how-to/check.md) found with the weights of a model: the certificates that ship
with the project. No published weights have been checked yet."""
MEMORY = """\
*Memory* is the most GPU memory that one picture needs at half precision. It was measured with random weights, or
estimated from such measurements. For FLUX.2 and AuraFlow it is the size of the weights. *Format* is the number format
in which the denoiser's weights were published, and the default of `dtype`."""
UNSERVED = """\
`plan` says so of a folder of one of them. A [plug-in](../how-to/plug-ins.md) may add a family for it."""
PRESETS = """\
`loco-sweep reproduce NAME` runs a sweep after a publication and shows the published values next to the measured ones.
None has been run on published weights yet. Sites are counted from 0. The last column says where a value comes from."""


def models_page() -> bytes:
    """Returns the page of models."""
    known, certificates, rows = families(), tuple(read_folder(BUNDLED)), []
    for model, (family, info) in sorted(known_models().items(), key=lambda item: (item[1][1].path is None, item[1][0])):
        names = site_names(known[family], info)
        sizes = ", ".join(map(str, LocalizeSettings().sizes(len(names))))
        memory = f"{info.gigabytes:g} GB" if info.gigabytes else "1 GB (CPU)"
        where = "bundled" if info.path else f"`{info.hub_id}`"
        status = status_of(certificates_of(info, certificates))
        rows.append((code(model), f"[{family}](#{family})", str(len(names)), sizes, memory, info.dtype, where, status))
    columns = ("id", "family", "sites", "window sizes by default", "memory per picture", "format", "weights", "status")
    parts = [
        INTRODUCTION,
        "## Models",
        table(columns, rows),
        MEMORY,
    ]
    for family, facts in known.items():
        parts += [f"## {family}", _family(family, facts)]
    return page(
        "Models and sites", "the families in `loco_core/diffusion/families/`", *parts, *_unserved(), *_presets()
    )


def _unserved() -> list[str]:
    served = {name for facts in families().values() for name in facts.pipelines}
    classes: dict[str, list[str]] = {}
    for name, why in sorted(REASONS.items()):
        if name not in served:
            classes.setdefault(why, []).append(code(name))
    rows = [(", ".join(names), why) for why, names in classes.items()]
    rows += [(kind.words, kind.reason) for kind in KINDS]
    return ["## Pipelines that are not served", UNSERVED, table(("pipelines of diffusers", "why"), rows)]


def certificates_of(info: ModelInfo, known: Sequence[Certificate]) -> tuple[Certificate, ...]:
    """Returns the certificates of a model; those of bundled ones are named after their folders."""
    return of_model(known, source=info.hub_id if info.path is None else info.path.name)


def site_names(facts: FamilyInfo, info: ModelInfo) -> tuple[str, ...]:
    """Returns the sites of a model, of one that is not bundled as its publication configures it."""
    if info.path is None:
        return facts.site_names(dict(info.published))
    return facts.site_names(json.loads((info.path / facts.config_file).read_text(encoding="utf-8")))


def _family(family: str, facts: FamilyInfo) -> str:
    rows = [
        ("pipelines of diffusers", ", ".join(map(code, facts.pipelines))),
        ("text encoders", facts.encoders),
        ("steps and guidance by default", f"{facts.steps}, {facts.guidance_scale:g}"),
        ("pooled text", facts.pooled or "none"),
        ("edits", facts.editable),
        ("sides of pictures", f"multiples of {facts.side_multiple} pixels"),
        ("schedulers", ", ".join(map(code, facts.schedulers)) or "all of the Karras kind"),
    ]
    parts = [table(("", ""), rows)]
    for model, (of, info) in known_models().items():
        if of == family and info.path is None:
            parts.append(
                f"Sites of `{model}`:\n\n{table(('sites', 'place in the denoiser'), _ranges(site_names(facts, info)))}"
            )
    return "\n\n".join(parts)


def _ranges(names: tuple[str, ...]) -> list[tuple[str, str]]:
    """Returns the sites of each block of the denoiser."""
    found = []
    for _, numbered in groupby(enumerate(names), key=lambda item: item[1].rpartition(".")[0]):
        inside = list(numbered)
        first, last = inside[0], inside[-1]
        where = code(first[1]) if len(inside) == 1 else f"{code(first[1])} .. {code(last[1])}"
        found.append((f"{first[0]}" if len(inside) == 1 else f"{first[0]}-{last[0]}", where))
    return found


def _presets() -> list[str]:
    rows = []
    for name in presets():
        said = published(name)
        windows = "<br>".join(
            f"{', '.join(each.attributes)}: {each.start}-{each.start + each.size - 1} ({each.source})"
            for each in said.windows
        )
        rows.append((code(name), code(said.model), said.work, windows or "no window"))
    return [
        "## Sweeps after publications",
        PRESETS,
        table(("preset", "model", "publication", "published windows"), rows),
    ]
