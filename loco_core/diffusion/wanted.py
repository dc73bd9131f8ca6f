"""Which files of a repository on the hub a model is loaded from, told from its listing before any weights are fetched.

The same choice as `loco_core.diffusion.folders` makes of a folder: no pickles, and of several variants of weights one.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from fnmatch import fnmatchcase
from pathlib import Path

from loco_core.diffusion.folders import (
    BY_KIND,
    INDEX,
    PICKLES,
    PROCESSORS,
    VOCABULARIES,
    Component,
    checkpoint_name,
    components,
    expected_variant,
    read_object,
    shard_names,
    stem_of,
    variants_in,
)
from loco_core.errors import ModelError

SMALL = ("*.index*.json", "*config.json", INDEX)
"""What the choice follows from, besides the listing."""
Choose = Callable[[str, Collection[str], Path], tuple[str, ...]]
"""Takes a hub id, the names of its files, and a folder with the small ones; returns the names of those to fetch."""


def pipeline_choice(left_out: Collection[str] = (), variant: str | None = None, held: Collection[str] = ()) -> Choose:
    """Returns what chooses the files of a pipeline; see `loco_core.diffusion.folders.pipeline_files`.

    Args:
        left_out: components that it is loaded without.
        variant: variant of weights that is asked for.
        held: components of which only the configuration is read.
    """

    def choose(repository: str, names: Collection[str], folder: Path) -> tuple[str, ...]:
        parts = components(folder, left_out)
        for part in parts:
            if f"{part.name}/{part.library}.py" in names:
                raise ModelError(f"{repository}: {part.name} brings code of its own, which is never run")
        loaded = [part for part in parts if part.name not in held and part.kind == "model"]
        chosen_variant = _variant(repository, names, folder, loaded, variant)
        found = {INDEX}
        for part in parts:
            place, there = _place(names, part)
            chosen: Iterator[str]
            if part.name in held:
                chosen = iter(("config.json",))
            elif part.kind == "model":
                chosen = _model(f"{repository}/{place}", there, folder / place, part.library, chosen_variant)
            else:
                chosen = (name for name in there if _matches(name, BY_KIND[part.kind]))
            found |= {place + name for name in chosen}
        return tuple(sorted(found))

    return choose


def scorer_choice(repository: str, names: Collection[str], folder: Path) -> tuple[str, ...]:
    """Chooses the files of a scorer of transformers; see `Choose`."""
    top = [name for name in names if "/" not in name]
    others = [name for name in top if _matches(name, (*VOCABULARIES, *PROCESSORS))]
    return tuple(sorted({*_model(repository, top, folder, "transformers", None), *others}))


def _place(names: Collection[str], part: Component) -> tuple[str, list[str]]:
    """Returns where a component lies, as a beginning of names, and the names of its files there."""
    own = f"{part.name}/"
    place = own if any(name.startswith(own) for name in names) else ""
    rests = [name.removeprefix(place) for name in names if name.startswith(place)]
    return place, [name for name in rests if "/" not in name]


def _variant(
    repository: str, names: Collection[str], folder: Path, parts: Collection[Component], variant: str | None
) -> str | None:
    """Returns the variant to fetch: the one that is asked for, else none, unless a component has no plain weights."""
    held, lacking = set[str](), []
    for part in parts:
        place, there = _place(names, part)
        held |= (found := variants_in(there, part.library))
        if checkpoint_name(there, part.library, None, _config(folder / place)) is None:
            lacking.append(found)
    if variant is not None and variant not in held:
        raise ModelError(f"{repository} holds no weights of the variant {variant}; {expected_variant(held)}")
    if variant is not None:
        return variant
    if not any(lacking):
        return None
    shared = set.intersection(*lacking)
    if "fp16" in shared or len(shared) == 1:
        return "fp16" if "fp16" in shared else shared.pop()
    raise ModelError(
        f"{repository} holds weights as {' and '.join(sorted(set.union(*lacking)))} only; expected plain ones, fp16, "
        "or the same variant of every component"
    )


def _config(place: Path) -> dict[str, object]:
    return read_object(place / "config.json") if (place / "config.json").is_file() else {}


def _model(where: str, names: Collection[str], place: Path, library: str, variant: str | None) -> Iterator[str]:
    config = _config(place)
    found = checkpoint_name(names, library, variant, config) or checkpoint_name(names, library, None, config)
    if found is None:
        pickles = sorted(name for name in names if _matches(name, PICKLES))
        held = f"; {pickles[0]} is a pickle, which is never read" if pickles else ""
        raise ModelError(f"{where} holds no safetensors weights: expected {stem_of(library)}.safetensors{held}")
    yield from ("config.json", found)
    if found.endswith(".json"):
        yield from shard_names(place / found)


def _matches(name: str, patterns: Collection[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)
