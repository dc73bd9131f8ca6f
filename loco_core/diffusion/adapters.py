"""What is put into a pipeline after it was loaded: LoRAs, fused into its weights, and words of textual inversions."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from loco_core.diffusion.headers import Header, named_file, read_header
from loco_core.errors import ModelError, first_line
from loco_core.quiet import hushed
from loco_core.types import Lora, TextualInversion

_MODULE = re.compile(r"^(.+?)(?:[._]lora[._]|[._]lora_|\.lokr_|\.processor)")
_SHAPES = re.compile(r"size mismatch for (\S+?): .*?torch\.Size\(\[(.*?)\]\).*?torch\.Size\(\[(.*?)\]\)", re.DOTALL)
_SIGNS = ("lora_", "_lora.", ".lora.", "lokr_")
_OTHER_KINDS = {r"\.hada_w": "LoHa", r"\.oft_": "OFT", r"\.diff(_b)?$": "full differences of weights"}
_PAIRS = (("tokenizer", "text_encoder"), ("tokenizer_2", "text_encoder_2"))
_NAMED = {"clip_l": "text_encoder", "clip_g": "text_encoder_2"}


def lora_file(path: str) -> Path:
    """Returns the file of a LoRA, looked at without torch.

    Raises:
        ModelError: it is missing, damaged, a pickle, or no LoRA.
    """
    file = named_file(path, "a LoRA")
    header = read_header(file)
    other = next((kind for sign, kind in _OTHER_KINDS.items() if any(re.search(sign, key) for key in header)), None)
    if any(sign in key for key in header for sign in _SIGNS):
        if other is not None:
            raise ModelError(f"{path} holds {other} beside LoRA, of which diffusers reads LoRA alone; expected a LoRA")
        return file
    if other is not None:
        raise ModelError(f"{path} holds {other}, which diffusers does not read; expected a LoRA")
    if vectors_of(header):
        raise ModelError(f"{path} is a textual inversion; expected it under textual_inversions:")
    raise ModelError(f"{path} is no LoRA: no tensor of it is called so; a whole checkpoint goes under path:")


def fuse_loras(pipeline: Any, loras: Sequence[Lora], *, on_meta: bool = False) -> None:
    """Adds LoRAs to a pipeline's weights, one after another, and leaves its layers as plain as they were.

    Args:
        pipeline: a diffusers pipeline.
        loras: LoRAs in their order.
        on_meta: whether the pipeline holds no weights, and it is only looked whether they fit.

    Raises:
        ModelError: one of them is no LoRA of this pipeline: of other shapes, or with a part that fits nowhere.
    """
    for number, lora in enumerate(loras):
        name = f"lora{number}"
        _attach(pipeline, lora, name)
        if not on_meta:
            places = [place for place, names in pipeline.get_list_adapters().items() if name in names]
            try:
                pipeline.fuse_lora(components=places, lora_scale=lora.scale, adapter_names=[name], safe_fusing=True)
            except ValueError as error:
                raise ModelError(f"{lora.path} cannot be fused: {first_line(error)}") from error
        pipeline.unload_lora_weights()


def _attach(pipeline: Any, lora: Lora, name: str) -> None:
    kind, file = type(pipeline).__name__, lora_file(lora.path)
    if not hasattr(pipeline, "load_lora_weights"):
        raise ModelError(f"a {kind} takes no LoRA; expected none, not {lora.path}")
    denoiser = getattr(pipeline, "transformer", None) or pipeline.unet
    channels = denoiser.config.get("in_channels")
    options = {"unet_config": pipeline.unet.config} if kind.startswith("StableDiffusionXL") else {}
    try:
        with hushed():
            weights = pipeline.lora_state_dict(str(file), **options)
            pipeline.load_lora_weights(str(file), adapter_name=name)
    except Exception as error:  # of keys that they do not know, libraries raise anything
        raise ModelError(f"{lora.path} is no LoRA of this {kind}: {_why_not(error)}") from error
    if denoiser.config.get("in_channels") != channels:
        raise ModelError(f"{lora.path} is a control LoRA, which reads a picture beside the prompt; expected another")
    _check_all_used(pipeline, lora, name, weights[0] if isinstance(weights, tuple) else weights)


def _why_not(error: BaseException) -> str:
    found = _SHAPES.search(str(error))
    if found is None:
        said = first_line(error)
        return said if len(said) < 300 else f"{said[:300]}..."
    where = re.sub(r"\.lora_[AB]\.\w+\.weight$", "", found[1])
    return f"at {where} it is of shape ({found[2]}), the model of ({found[3]}); expected one trained on a model like it"


def _check_all_used(pipeline: Any, lora: Lora, name: str, weights: Any) -> None:
    """Refuses a LoRA of which a part found no place: libraries leave it out, and say so in a warning at most."""
    wanted: dict[str, set[str]] = {}
    for key in weights:
        place, _, rest = key.partition(".")
        found = _MODULE.match(rest)
        wanted.setdefault(place, set()).add(rest if found is None else found[1])
    total = sum(map(len, wanted.values()))
    for place, modules in wanted.items():
        changed = set(_changed(getattr(pipeline, place, None), name))
        if len(changed) < len(modules):
            lost = sorted(modules - changed) or sorted(modules)
            raise ModelError(
                f"{lora.path} is no LoRA of this {type(pipeline).__name__}: {len(modules) - len(changed)} of the "
                f"{total} layers that it changes are not there, such as {place}.{lost[0]}; expected one trained on a "
                "model like it"
            )


def _changed(model: Any, name: str) -> Iterator[str]:
    for path, module in model.named_modules() if hasattr(model, "named_modules") else ():
        if any(name in getattr(module, kind, ()) for kind in getattr(module, "adapter_layer_names", ())):
            yield path


def vectors_of(header: Header) -> dict[str, tuple[int, int]]:
    """Returns the embeddings of a textual inversion: their number and width by the name of their tensor; else none."""
    found = {key: entry.shape for key, entry in header.items() if len(entry.shape) in (1, 2)}
    named = [key for key in found if key in _NAMED or key == "emb_params"]
    keys = named or (list(found) if len(header) == 1 else [])
    return {key: (1 if len(found[key]) == 1 else found[key][0], found[key][-1]) for key in keys}


def inversion_file(path: str) -> Path:
    """Returns the file of a textual inversion, looked at without torch.

    Raises:
        ModelError: it is missing, damaged, a pickle, or no textual inversion.
    """
    file = named_file(path, "a textual inversion")
    header = read_header(file)
    if any(sign in key for key in header for sign in _SIGNS):
        raise ModelError(f"{path} is a LoRA; expected it under loras:")
    if not vectors_of(header):
        raise ModelError(
            f"{path} is no textual inversion; expected one tensor of vectors, or clip_l and clip_g for two encoders"
        )
    return file


def placed_vectors(item: TextualInversion, widths: dict[str, int]) -> dict[str, tuple[str, int]]:
    """Returns which tensor of a textual inversion each text encoder takes, and the number of its vectors.

    Args:
        item: the textual inversion.
        widths: width of the embeddings of each CLIP text encoder, by its component.

    Raises:
        ModelError: a tensor has the width of none of them, or an encoder would not know the word.
    """
    found: dict[str, tuple[str, int]] = {}
    for key, (count, width) in vectors_of(read_header(inversion_file(item.path))).items():
        fits = [name for name, own in widths.items() if own == width and name not in found]
        if _NAMED.get(key) in widths and len(widths) > 1:
            fits = [name for name in fits if name == _NAMED[key]]
        if not fits:
            known = " and ".join(f"{own} ({name})" for name, own in widths.items())
            raise ModelError(
                f"{item.path}: embeddings of width {width}, and the model reads {known}; expected a textual inversion "
                "that was trained on a model like it"
            )
        found[fits[0]] = (key, count)
    if len({count for _, count in found.values()}) > 1:
        raise ModelError(f"{item.path} teaches its text encoders another number of vectors each; expected the same")
    if without := [name for name in widths if name not in found]:
        raise ModelError(
            f"{item.path} teaches {item.token} to {' and '.join(found)} alone, not to {' and '.join(without)}; "
            "expected vectors for both, clip_l and clip_g"
        )
    return found


def check_token(tokenizer: Any, item: TextualInversion) -> None:
    """Refuses a word that a tokenizer knows already.

    Raises:
        ModelError: it does.
    """
    known = tokenizer.get_vocab()
    for word in (item.token, f"{item.token}</w>", item.token.lower(), f"{item.token.lower()}</w>", f"{item.token}_1"):
        if word in known:
            raise ModelError(
                f"{item.path}: {item.token} is a word that the model knows already; expected one of your own, such as "
                f"<{item.token.strip('<>')}-1>"
            )


def teach_words(pipeline: Any, inversions: Sequence[TextualInversion]) -> None:
    """Adds the words of textual inversions to the tokenizers and CLIP text encoders of a pipeline.

    Raises:
        ModelError: the pipeline takes none, or one does not fit.
    """
    from safetensors.torch import load_file

    for item in inversions:
        weights = load_file(inversion_file(item.path))
        for tokenizer, name, key in _readers(pipeline, item):
            check_token(tokenizer, item)
            # As one tensor of a dictionary it needs no further rule of the library for what a file may hold.
            pipeline.load_textual_inversion(
                {item.token: weights[key]}, token=item.token, tokenizer=tokenizer,
                text_encoder=getattr(pipeline, name),
            )  # fmt: skip


def teach(tokenizer: Any, inversions: Sequence[TextualInversion]) -> int:
    """Teaches a tokenizer alone words of textual inversions, to count tokens with; returns how many tokens they are.

    Raises:
        ModelError: it knows one of them already, or a file is none.
    """
    words = list[str]()
    for item in inversions:
        check_token(tokenizer, item)
        # All encoders of a model take as many: it is read as one sentence.
        count, _ = next(iter(vectors_of(read_header(inversion_file(item.path))).values()))
        words += [item.token, *(f"{item.token}_{i}" for i in range(1, count))]
    tokenizer.add_tokens(words)
    return len(words)


def check_words_fit(pipeline: Any, inversions: Sequence[TextualInversion]) -> None:
    """Refuses words that `teach_words` would not teach a pipeline, without changing it.

    Raises:
        ModelError: there is one.
    """
    for item in inversions:
        for tokenizer, _, _ in _readers(pipeline, item):
            check_token(tokenizer, item)


def _readers(pipeline: Any, item: TextualInversion) -> list[tuple[Any, str, str]]:
    """Returns tokenizers and components that are to know a word, with the name of its tensor."""
    if not hasattr(pipeline, "load_textual_inversion"):
        raise ModelError(f"a {type(pipeline).__name__} takes no textual inversions; expected none, not {item.path}")
    pairs = [pair for pair in _PAIRS if type(getattr(pipeline, pair[1], None)).__name__.startswith("CLIPText")]
    widths = {name: getattr(pipeline, name).get_input_embeddings().weight.shape[-1] for _, name in pairs}
    places = placed_vectors(item, widths)
    return [(getattr(pipeline, tokenizer), name, places[name][0]) for tokenizer, name in pairs]
