"""Which files of a model's folder are read when it is loaded: those that a hash must cover, and no others. No torch.

Links are followed, as whoever loads the folder follows them: the cache of the hub and linked components are ordinary.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from types import MappingProxyType
from typing import Any

from loco_core.diffusion.headers import read_header
from loco_core.errors import ModelError, first_line

INDEX = "model_index.json"
# Pickled weights run code when they are read.
PICKLES = ("*.bin", "*.ckpt", "*.pt", "*.pth")
VOCABULARIES = (
    "tokenizer.json", "tokenizer.*.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json",
    "vocab.json", "vocab.txt", "merges.txt", "*.model", "chat_template.jinja", "chat_template.json",
)  # fmt: skip
_HALVES = {"vocab.json", "merges.txt"}
PROCESSORS = ("preprocessor_config.json", "processor_config.json")
BY_KIND = MappingProxyType(
    # A processor of texts and pictures holds a tokenizer.
    {
        "tokenizer": VOCABULARIES, "scheduler": ("scheduler_config.json",), "guider": ("guider_config.json",),
        "processor": (*PROCESSORS, *VOCABULARIES),
    }
)  # fmt: skip
"""Names of the files that a component is loaded from, by its kind; those of models are told by their weights."""
_BESIDE = {"tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja", "chat_template.json"}
_MOST_LAYERS = 4096


@dataclass(frozen=True)
class Component:
    """A part of a pipeline, as its index names it.

    Attributes:
        name: e.g. ``unet``.
        library: library that loads it: ``diffusers``, ``transformers``, or a module of a pipeline.
        class_name: its class.
    """

    name: str
    library: str
    class_name: str

    @property
    def kind(self) -> str:
        """``tokenizer``, ``scheduler``, ``guider``, ``processor`` or ``model``."""
        for kind, ends in _KINDS:
            if self.class_name.endswith(ends):
                return kind
        return "model"


_KINDS = (
    # The last is what a tokenizer without a class of its own is saved as.
    ("tokenizer", ("Tokenizer", "TokenizerFast", "TokenizersBackend")),
    ("scheduler", ("Scheduler",)),
    ("guider", ("Guidance",)),
    ("processor", ("Processor", "ProcessorPil", "ProcessorFast", "FeatureExtractor")),
)


def read_object(file: Path) -> dict[str, Any]:
    """Reads a JSON file that holds an object.

    Raises:
        ModelError: it is missing, cannot be read, or is damaged.
    """
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise ModelError(f"{file} cannot be read: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{file} is damaged: {first_line(error)}") from error
    if not isinstance(content, dict):
        raise ModelError(f"{file} is damaged: expected an object")
    return content


def components(folder: Path, left_out: Collection[str] = ()) -> tuple[Component, ...]:
    """Returns the parts that a pipeline folder names, without those that are left out.

    Raises:
        ModelError: the index is damaged, or a part is code of the folder's own, which is never run.
    """
    found = []
    for name, value in sorted(read_object(folder / INDEX).items()):
        if name == "_class_name" and not isinstance(value, str):
            raise ModelError(f"{folder / INDEX}: {name} is {value}; expected the name of a class of diffusers")
        if name in left_out or name.startswith("_") or not isinstance(value, list):
            continue
        if len(value) != 2 or not all(isinstance(word, str) for word in value):
            continue
        if not all(re.fullmatch(r"\w+", word) for word in (name, *value)):
            raise ModelError(f"{folder / INDEX}: {name} is {value}; expected names of a library and a class")
        if (folder / name / f"{value[0]}.py").is_file():
            raise ModelError(f"{folder / name} brings code of its own, {value[0]}.py, which is never run")
        found.append(Component(name, *value))
    return tuple(found)


def place_of(folder: Path, component: Component) -> Path:
    """Returns the folder that a component is read from: its own, else the pipeline's, as diffusers has it."""
    own = folder / component.name
    return own if own.is_dir() else folder


def pipeline_files(
    folder: Path, left_out: Collection[str] = (), variant: str | None = None, held: Collection[str] = ()
) -> tuple[Path, ...]:
    """Returns the files that a pipeline is loaded from, as paths below its folder.

    Args:
        folder: folder of the pipeline.
        left_out: components that it is loaded without.
        variant: variant of weights that is asked for, e.g. ``fp16``; None takes plain ones where there are any.
        held: components whose weights come from elsewhere, and of which only the configuration is read.

    Raises:
        ModelError: one of them is missing or damaged, lies outside, or weights are pickles.
    """
    found = {folder / INDEX}
    _check_folders(folder, left_out)
    chosen = variant_of(folder, {*left_out, *held}, variant)
    if chosen is not None:
        _check_names(folder)
    for part in components(folder, left_out):
        place = place_of(folder, part)
        if part.name in held:
            _config(place)
            found.add(place / "config.json")
        elif part.kind == "model":
            found.update(model_files(place, part.library, chosen))
        else:
            found.update(_named(place, part))
    return _readable(found)


def _check_folders(folder: Path, left_out: Collection[str]) -> None:
    """Refuses an index that names a model of which there is no folder."""
    for part in components(folder, left_out):
        if part.kind == "model" and place_of(folder, part) == folder and not (folder / "config.json").is_file():
            raise ModelError(f"{folder} holds no {part.name}, which {INDEX} names; expected a folder of that name")


def _check_names(folder: Path) -> None:
    """Refuses names that diffusers cannot read where it looks for a variant: it takes the word behind a first dot."""
    for part in components(folder, ()):
        place = folder / part.name
        bare = sorted(file.name for file in place.iterdir() if "." not in file.name) if place.is_dir() else []
        if bare:
            raise ModelError(
                f"{place / bare[0]}: diffusers reads no variant of weights beside a name without a dot; expected it "
                "elsewhere, or under a name such as LICENSE.txt"
            )


def _readable(files: Collection[Path]) -> tuple[Path, ...]:
    """Refuses damaged configurations, of which libraries would say more than a line."""
    for file in files:
        if file.name.endswith("_config.json"):
            read_object(file)
    return tuple(sorted(files))


def _named(place: Path, part: Component) -> list[Path]:
    names = BY_KIND[part.kind]
    files = [file for name in names for file in place.glob(name) if file.is_file()]
    there = {file.name for file in files}
    if not there - _BESIDE:
        raise ModelError(f"{place} holds no {part.kind} for {part.name}, which {INDEX} names; expected {names[0]}")
    if part.kind == "tokenizer":
        _check_merges(place, there)
    return files


def _check_merges(place: Path, there: Collection[str]) -> None:
    """Refuses half of a vocabulary: without its other half every word falls into letters."""
    if "tokenizer.json" not in there and len(_HALVES & set(there)) == 1:
        (missing,) = _HALVES - set(there)
        raise ModelError(f"{place} holds half a vocabulary: {missing} is missing")


def scorer_files(folder: Path) -> tuple[Path, ...]:
    """Returns the files that a scorer of transformers is loaded from, as `pipeline_files` does of a pipeline.

    Raises:
        ModelError: weights are missing, damaged, outside, or pickles.
    """
    others = [file for name in (*VOCABULARIES, *PROCESSORS) for file in folder.glob(name) if file.is_file()]
    return _readable({*model_files(folder, "transformers", None), *others})


def has_readers(folder: Path) -> bool:
    """Tells whether a folder holds what reads texts and pictures for a scorer, beside its weights."""
    whole = (folder / "tokenizer.json").is_file() or all((folder / name).is_file() for name in _HALVES)
    return whole and any((folder / name).is_file() for name in PROCESSORS)


def variant_of(folder: Path, left_out: Collection[str] = (), variant: str | None = None) -> str | None:
    """Returns the variant, e.g. ``fp16``, whose weights are loaded of a pipeline; None for plain ones.

    Args:
        folder: folder of the pipeline.
        left_out: components whose weights are not loaded from it.
        variant: variant that is asked for; None takes plain weights, and another only where a component has none.

    Raises:
        ModelError: it is not there, or there are several and no plain weights, so that it is not clear which one is
            meant.
    """
    there = [(part, place_of(folder, part)) for part in components(folder, left_out) if part.kind == "model"]
    if variant is not None:
        held = {name for part, place in there for name in variants_in(_names(place), part.library)}
        if variant not in held:
            raise ModelError(f"{folder} holds no weights of the variant {variant}; {expected_variant(held)}")
        return variant
    lacking = [
        (place, variants_in(_names(place), part.library))
        for part, place in there
        if checkpoint_of(place, part.library) is None
    ]
    if not any(found for _, found in lacking):
        return None
    shared = set.intersection(*(found for _, found in lacking))
    if len(shared) != 1:
        names = sorted({name for _, found in lacking for name in found})
        raise ModelError(
            f"{lacking[0][0]} holds weights as {' and '.join(names)} only; expected variant: {names[0]} in the sweep, "
            "files without such a word in their names, or the same one in every component"
        )
    return shared.pop()


def expected_variant(held: Collection[str]) -> str:
    """Says which variants of weights there are in place of one that is not."""
    names = " or ".join(sorted(held))
    return f"expected {names}, or no variant" if held else "expected no variant: there are plain ones only"


def _names(place: Path) -> list[str]:
    return [file.name for file in place.iterdir()] if place.is_dir() else []


def variants_in(names: Collection[str], library: str) -> set[str]:
    """Returns the variants of weights, e.g. ``fp16``, that file names of a model's folder tell of."""
    stem = re.escape(stem_of(library))
    patterns = (
        rf"{stem}\.([A-Za-z0-9_]+)\.safetensors", rf"{stem}\.safetensors\.index\.([A-Za-z0-9_]+)\.json",
        rf"{stem}\.safetensors\.([A-Za-z0-9_]+)\.index\.json",
    )  # fmt: skip
    return {found[1] for name in names for pattern in patterns if (found := re.fullmatch(pattern, name))}


def stem_of(library: str) -> str:
    """Returns how names of a library's files of weights begin."""
    return "diffusion_pytorch_model" if library == "diffusers" else "model"


def _config(place: Path) -> dict[str, Any]:
    if not (place / "config.json").is_file():
        raise ModelError(f"{place} holds no config.json")
    return read_object(place / "config.json")


def checkpoint_of(place: Path, library: str, variant: str | None = None) -> Path | None:
    """Returns the file that a model's weights are read from, or their index; None where it holds none of a variant."""
    return _checkpoint(place, library, variant, _config(place))


def _checkpoint(place: Path, library: str, variant: str | None, config: dict[str, Any]) -> Path | None:
    there = [name for name in _names(place) if (place / name).is_file()]
    found = checkpoint_name(there, library, variant, config)
    return None if found is None else place / found


def checkpoint_name(names: Collection[str], library: str, variant: str | None, config: Mapping[str, Any]) -> str | None:
    """Returns the file that a model's weights are read from, or the index of several, as its library looks for it.

    Args:
        names: names of the files of its folder.
        library: library that loads it.
        variant: variant of weights; None for plain ones.
        config: its configuration.
    """
    stem, word = stem_of(library), f".{variant}" if variant else ""
    single, index = f"{stem}{word}.safetensors", f"{stem}.safetensors.index{word}.json"
    named = config.get("transformers_weights")
    if library == "diffusers":
        order = [index, f"{stem}.safetensors{word}.index.json", single]
    else:
        order = [named] if isinstance(named, str) else [single, index]
    return next((name for name in order if name in names), None)


def model_files(place: Path, library: str, variant: str | None) -> list[Path]:
    """Returns a model's configuration and weights.

    Args:
        place: its folder.
        library: library that loads it.
        variant: variant of weights, which is taken wherever there is one, as diffusers does; None takes plain ones.

    Raises:
        ModelError: one is missing or damaged, lies outside, or weights are pickles.
    """
    config = _config(place)
    _check_counts(place, config)
    found = _checkpoint(place, library, variant, config) or _checkpoint(place, library, None, config)
    if found is None:
        pickles = sorted(file.name for pattern in PICKLES for file in place.glob(pattern))
        held = f"; {pickles[0]} is a pickle, which is never read" if pickles else ""
        raise ModelError(f"{place} holds no safetensors weights: expected {stem_of(library)}.safetensors{held}")
    files = [place / "config.json", found, *(_shards(found) if found.suffix == ".json" else ())]
    for file in files:
        if file.suffix == ".safetensors":
            read_header(file)
    return files


def _check_counts(place: Path, config: Mapping[str, Any]) -> None:
    """Refuses numbers of layers that no model has, and at which libraries would build for hours."""
    for key, value in config.items():
        if isinstance(value, dict):
            _check_counts(place, value)
        elif "layers" in key and isinstance(value, int | float) and value > _MOST_LAYERS:
            raise ModelError(f"{place / 'config.json'}: {key} is {value}; expected at most {_MOST_LAYERS}")


def _shards(index: Path) -> Iterator[Path]:
    for name in shard_names(index):
        if not (index.parent / name).is_file():
            raise ModelError(f"{index} names {name}, which is missing")
        yield index.parent / name


def shard_names(index: Path) -> Iterator[str]:
    """Yields the names of the files that an index of weights names.

    Raises:
        ModelError: it is damaged.
    """
    named = read_object(index).get("weight_map")
    if not isinstance(named, dict) or not named:
        raise ModelError(f"{index} is damaged: expected a weight_map")
    for name in sorted({str(value) for value in named.values()}):
        path = PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts or path.suffix != ".safetensors":
            raise ModelError(f'{index} names "{name}"; expected names of safetensors files beside it')
        yield name
