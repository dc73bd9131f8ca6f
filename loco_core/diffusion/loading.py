"""Loads pipelines and models of transformers, and refuses what libraries would make up: weights, words."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from loco_core.diffusion.adapters import check_words_fit, fuse_loras, teach_words
from loco_core.diffusion.folders import (
    INDEX,
    Component,
    checkpoint_of,
    components,
    pipeline_files,
    place_of,
    read_object,
    variant_of,
)
from loco_core.diffusion.from_file import converted, lent_by
from loco_core.diffusion.hub import local_pipeline
from loco_core.diffusion.pipelines import pipeline_class
from loco_core.errors import ModelError, first_line
from loco_core.quiet import quiet_libraries
from loco_core.types import Extras

# A cause that keys tell: how they look, and what was done to the weights.
_CAUSES = (
    (".base_layer.", "a LoRA that was not fused; fuse and unload it, and save the model again"),
    ("lora_", "a LoRA that was not fused; fuse and unload it, and save the model again"),
    ("_orig_mod.", "saved while compiled; save the module that was compiled"),
    ("module.", "saved while wrapped for several GPUs; save the module inside"),
)
# What any vocabulary tells apart.
_WORDS = ("a", "the", "red", "blue", "circle", "square", "painting", "photo", "1", "2")


@dataclass(frozen=True)
class Loaded:
    """A model that a library has loaded, with what it says of it.

    Attributes:
        name: class of the model.
        place: folder or hub id that it was read from.
        missing: keys that its weights lack, which the library has filled at random.
        unexpected: keys of its weights that the model has no place for.
        mismatched: keys whose shapes differ.
    """

    name: str
    place: str
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    mismatched: tuple[str, ...]

    def check(self) -> None:
        """Refuses a model of which a part is made up.

        Raises:
            ModelError: weights are missing, or of another shape.
        """
        for keys, what in ((self.missing, "lack"), (self.mismatched, "have another shape of")):
            if keys:
                raise ModelError(
                    f"the weights in {self.place} {what} {_few(keys)} of {self.name}{self._cause()}; expected all of "
                    "them, as the library would make them up at random"
                )

    def _cause(self) -> str:
        if not self.unexpected:
            return ""
        causes = [why for sign, why in _CAUSES if any(sign in key for key in self.unexpected)]
        return f" but hold {_few(self.unexpected)}{f' ({causes[0]})' if causes else ''}"


def _few(keys: Sequence[str]) -> str:
    more = f" and {len(keys) - 2} more" if len(keys) > 2 else ""
    return ", ".join(keys[:2]) + more


@contextmanager
def noted() -> Iterator[list[Loaded]]:
    """Collects what is said of every model that diffusers and transformers load within a ``with`` block.

    A pipeline's own call loads its parts and throws that away, so that it is asked for here, beneath the call: loading
    the parts one by one instead would not be what the call does, with several GPUs least of all.
    """
    import diffusers
    import transformers

    found: list[Loaded] = []
    bases: dict[Any, Any] = {
        base: vars(base)["from_pretrained"] for base in (transformers.PreTrainedModel, diffusers.ModelMixin)
    }

    def noting(original: Any, **more: Any) -> Any:
        def from_pretrained(cls: Any, path: Any, *args: Any, **options: Any) -> Any:
            asked = options.pop("output_loading_info", False)
            model, said = original.__func__(cls, path, *args, output_loading_info=True, **{**more, **options})
            found.append(_loaded(model, str(path), said))
            return (model, said) if asked else model

        return classmethod(from_pretrained)

    try:
        for base, original in bases.items():
            # Transformers would say of other shapes no more than that there are some.
            more = {"ignore_mismatched_sizes": True} if base is transformers.PreTrainedModel else {}
            base.from_pretrained = noting(original, **more)
        yield found
    finally:
        for base, original in bases.items():
            base.from_pretrained = original


def _loaded(model: Any, place: str, said: Any) -> Loaded:
    def keys(kind: str) -> tuple[str, ...]:
        return tuple(sorted(str(key if isinstance(key, str) else key[0]) for key in said.get(kind) or ()))

    # Such as positions: computed, not learned, and left out of many published files.
    computed = {name for name, _ in model.named_buffers() if not name.endswith(("running_mean", "running_var"))}
    missing = tuple(key for key in keys("missing_keys") if key not in computed)
    return Loaded(type(model).__name__, place, missing, keys("unexpected_keys"), keys("mismatched_keys"))


def reason_of(error: BaseException) -> str:
    """Returns what a library says went wrong, in a line, without its advice on its own options."""
    said = first_line(error)
    for advice in (" If you want to instead", " You can ", " Please "):
        said = said.partition(advice)[0]
    return said if len(said) < 400 else f"{said[:400]}..."


def load_tokenizer(folder: Path, class_name: str, library: str = "transformers") -> Any:
    """Loads a tokenizer, of a processor of texts and pictures the part that reads texts.

    Args:
        folder: folder of the tokenizer.
        class_name: its class.
        library: library that the class is of: transformers, or a module of a pipeline of diffusers.

    Raises:
        ModelError: it cannot be loaded, or knows no words.
    """
    quiet_libraries()
    import transformers

    try:
        # Processors want packages for pictures, which the project does without.
        name = "AutoTokenizer" if class_name.endswith("Processor") else class_name
        options = {"trust_remote_code": False} if name == "AutoTokenizer" else {}
        module = transformers
        if library != "transformers":
            module = importlib.import_module(f"diffusers.pipelines.{library}")
        tokenizer = getattr(module, name).from_pretrained(folder, local_files_only=True, **options)
    except Exception as error:  # a damaged folder makes libraries raise anything
        raise ModelError(f"cannot load the tokenizer in {folder}: {reason_of(error)}") from error
    check_words(tokenizer, str(folder))
    return tokenizer


def check_words(tokenizer: Any, place: str) -> None:
    """Refuses a tokenizer that knows no words: libraries make one where vocabularies are missing, and say nothing.

    Args:
        tokenizer: tokenizer of transformers.
        place: folder or hub id that it was read from.

    Raises:
        ModelError: it knows none, or reads all words alike.
    """
    special = {*tokenizer.all_special_tokens, *getattr(tokenizer, "added_tokens_encoder", ())}
    words = [word for word in tokenizer.get_vocab() if word not in special and any(map(str.isalnum, word))]
    try:
        read = {tuple(tokenizer(word).input_ids) for word in _WORDS}
    except Exception:  # some read what they do not know as a token that they do not know either
        read = set()
    if len(words) < 2 or len(read) < 2:
        raise ModelError(
            f"the tokenizer in {place} knows no words: its vocabulary is missing or empty; expected the files that "
            "belong to it, such as tokenizer.json, vocab.json with merges.txt, or spiece.model"
        )


@lru_cache(maxsize=64)
def check_weights(
    folder: Path,
    weights: str,
    left_out: frozenset[str] = frozenset(),
    file: str | None = None,
    extras: Extras | None = None,
) -> None:
    """Refuses a folder whose weights are not those of its models, without reading them: only their names and shapes.

    Every part is loaded as it will be, but onto the device that holds nothing.

    Args:
        folder: folder of a pipeline, or of a CLIP model.
        weights: hash of its content: what was found right once is not looked at again.
        left_out: components that it is loaded without.
        file: checkpoint in one file that the folder lends what it lacks; None where the folder is the model.
        extras: what it is loaded with beside that.

    Raises:
        ModelError: weights are missing, or have another shape, or a configuration is of no model; a LoRA or a word
            does not fit.
    """
    quiet_libraries()
    import diffusers
    import transformers

    extras = extras or Extras()
    libraries = {"diffusers": diffusers, "transformers": transformers}
    scorer = Component("", "transformers", "CLIPModel")
    whole, variant = (folder / INDEX).is_file(), None
    if whole:
        variant = variant_of(folder, left_out | extras.parts, extras.variant)
    made: dict[str, Any] = {}
    for part in components(folder, left_out) if whole else (scorer,):
        cls, place = getattr(libraries.get(part.library), part.class_name, None), place_of(folder, part)
        if part.kind != "model" or cls is None or part.name in extras.parts:
            continue
        own = variant if checkpoint_of(place, part.library, variant) is not None else None
        try:
            with noted() as parts:
                made[part.name] = cls.from_pretrained(
                    str(place), use_safetensors=True, device_map={"": "meta"}, variant=own, local_files_only=True
                )
        except Exception as error:  # a damaged folder makes libraries raise anything
            if isinstance(error, NotImplementedError) or "meta" in str(error) or "device_map" in str(error):
                # Of this model nothing can be said without memory for it: whoever loads it will tell.
                continue
            raise ModelError(f"cannot load {place} as a {part.class_name}: {reason_of(error)}") from error
        for loaded in parts:
            loaded.check()
    if whole and (file is not None or extras.loras or extras.textual_inversions):
        _check_extras(folder, file, left_out, extras, made)


def _check_extras(
    folder: Path, file: str | None, left_out: frozenset[str], extras: Extras, made: Mapping[str, Any]
) -> None:
    """Looks at a single file, LoRAs and words on a pipeline that holds no weights."""
    class_name = str(read_object(folder / INDEX).get("_class_name"))
    cls = pipeline_class(class_name, str(folder))
    given = {**_without(cls, folder), **dict.fromkeys(left_out), **made}
    taken = {name: value for name, value in given.items() if name in inspect.signature(cls.__init__).parameters}
    models = {part.name for part in components(folder, left_out) if part.kind == "model"}
    if models - made.keys() - extras.parts:
        # See above: whoever loads it will tell.
        return
    if file is not None:
        pipeline = _converted(cls, file, folder, taken, None, on_meta=True)
    else:
        pipeline = cls.from_pretrained(str(folder), local_files_only=True, **taken)
    fuse_loras(pipeline, extras.loras, on_meta=True)
    check_words_fit(pipeline, extras.textual_inversions)


def load_pipeline(
    class_name: str,
    path: str,
    revision: str | None,
    dtype: str,
    device_map: str | None,
    extras: Extras | None = None,
    **parts: Any,
) -> Any:
    """Loads a diffusers pipeline from safetensors, silently.

    Args:
        class_name: the pipeline's class, e.g. ``StableDiffusionPipeline``.
        path: a folder, a hub id, or a checkpoint in one file.
        revision: the hub's commit, of a single file that of its configuration; None for a folder.
        dtype: ``float32``, ``float16`` or ``bfloat16``.
        device_map: ``balanced`` spreads its components over all GPUs in sight; None leaves it in the main memory.
        extras: what it is loaded with beside its path; None for nothing.
        parts: components of the pipeline, None for those to leave out.

    Raises:
        ModelError: no such model, not in safetensors, or damaged; weights or a vocabulary are missing; a LoRA or a word
            does not fit.
    """
    # First: the import alone gives advice on packages that are not needed.
    quiet_libraries()
    import torch

    cls, extras = pipeline_class(class_name, path), extras or Extras()
    left_out, number = {name for name, value in parts.items() if value is None}, getattr(torch, dtype)
    single = bool(extras.parts)
    folder = local_pipeline(extras.config if single else path, revision, left_out, extras.variant, extras.parts)
    pipeline_files(folder, left_out, extras.variant, extras.parts)
    variant = variant_of(folder, left_out | extras.parts, extras.variant)
    if single and device_map is not None:
        raise ModelError(f"{path} is a single file, which cannot be spread over GPUs; expected a folder")
    given = {**_without(cls, folder), **parts}
    try:
        with noted() as loaded:
            if single:
                lent = {
                    part.name: lent_by(folder, part, variant, number)
                    for part in components(folder, left_out)
                    if part.kind == "model" and part.name not in extras.parts
                }
                pipeline = _converted(cls, path, folder, {**given, **lent}, number)
            else:
                pipeline = cls.from_pretrained(
                    str(folder), dtype=number, use_safetensors=True, device_map=device_map, variant=variant,
                    trust_remote_code=False, **given,
                )  # fmt: skip
    except (torch.OutOfMemoryError, ModelError):
        raise
    except Exception as error:  # a damaged folder makes libraries raise anything
        raise ModelError(f"cannot load {path} as a {class_name} from safetensors: {reason_of(error)}") from error
    for each in loaded:
        each.check()
    for name, part in pipeline.components.items():
        if callable(getattr(part, "get_vocab", None)):
            check_words(part, str(Path(extras.config if single else path) / name))
    teach_words(pipeline, extras.textual_inversions)
    fuse_loras(pipeline, extras.loras)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def _without(cls: Any, folder: Path) -> dict[str, None]:
    """Returns components that a folder was saved without: it says so, and its class takes it as an argument only."""
    takes = inspect.signature(cls.__init__).parameters
    index = read_object(folder / INDEX)
    return {name: None for name, value in index.items() if value == [None, None] and name in takes}


def _converted(
    cls: Any, file: str, folder: Path, given: Mapping[str, Any], dtype: Any, *, on_meta: bool = False
) -> Any:
    """Loads a checkpoint in one file.

    Args:
        cls: class of the pipeline.
        file: the checkpoint.
        folder: folder of a pipeline, for configurations, tokenizers and the scheduler.
        given: components that are loaded already, None for those to leave out, and flags.
        dtype: dtype of weights; None leaves them as they are.
        on_meta: whether only names and shapes are read.

    Raises:
        ModelError: the file is of other shapes than the folder says, or lacks weights.
    """
    found: list[tuple[Any, Mapping[str, Any]]] = []
    device = {"device": "meta"} if on_meta else {}
    try:
        with converted(found, on_meta=on_meta):
            pipeline = cls.from_single_file(
                file, config=str(folder), torch_dtype=dtype, local_files_only=True, **device, **given
            )
    except Exception as error:  # of a file that it does not know, the library raises anything
        _check_converted(file, folder, found)
        said = f"it lacks {error}" if isinstance(error, KeyError) else reason_of(error)
        raise ModelError(f"cannot read {file} with the configuration in {folder}: {said}") from error
    _check_converted(file, folder, found)
    return pipeline


def _check_converted(file: str, folder: Path, found: Sequence[tuple[Any, Mapping[str, Any]]]) -> None:
    for model, weights in found:
        shapes = {key: tuple(value.shape) for key, value in model.state_dict().items()}
        mismatched = tuple(
            key for key, shape in shapes.items() if key in weights and tuple(weights[key].shape) != shape
        )
        said = {"missing_keys": shapes.keys() - weights.keys(), "mismatched_keys": mismatched}
        try:
            _loaded(model, file, said).check()
        except ModelError as error:
            raise ModelError(f"{error}; or config: a pipeline of the same shapes in place of {folder}") from error
