"""Whether the texts of a sweep are read whole, and told apart, by its models and its scorer: before a worker starts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from loco_core.errors import ModelError, SpecError, located
from loco_core.folders import INDEX, components, place_of, read_object
from loco_core.hub import cached_folder
from loco_core.loading import check_words, reason_of
from loco_core.models import families
from loco_core.types import Attribute
from orchestrator.spec import SweepSpec

# Tokenizers that were not told how much is read say a number beyond all sense.
_ENDLESS = 1_000_000


@dataclass(frozen=True)
class _Reader:
    """A tokenizer, and how much of what it says is read.

    Attributes:
        tokenizer: of transformers.
        name: of what reads.
        tokens: that are read at most.
        words: that the encoder has embeddings of; None where it does not say.
        lower: whether texts are written in small letters first.
    """

    tokenizer: Any
    name: str
    tokens: int
    words: int | None
    lower: bool = False

    def ids(self, text: str, what: str) -> tuple[int, ...]:
        """Returns what is read of a text.

        Raises:
            SpecError: it is longer than that, or holds a token that the encoder does not know.
        """
        found = tuple(self.tokenizer(text.lower().strip() if self.lower else text).input_ids)
        if len(found) > self.tokens:
            raise SpecError(
                f'{what} "{text[:60]}..." has {len(found)} tokens, of which {self.name} reads {self.tokens}; shorten it'
            )
        if self.words is not None and found and max(found) >= self.words:
            raise SpecError(
                f'{what} "{text[:60]}" has the token {max(found)}, and {self.name} knows {self.words}: its tokenizer '
                "and its text encoder do not belong together"
            )
        return found


def prompt_reader(model: str, family: str, path: str, revision: str | None) -> _Reader | None:
    """Returns what reads a model's prompts; None where it is not on this machine, or only the loaded model can tell.

    Raises:
        ModelError: its tokenizer cannot be loaded, knows no words, or does not fit its text encoder.
    """
    reading, folder = families()[family].reading, cached_folder(path, revision, INDEX)
    if reading is None or folder is None:
        return None
    read = reading(read_object(folder / INDEX))
    parts = {part.name: part for part in components(folder)}
    if read.tokenizer not in parts:
        raise ModelError(f"{folder / INDEX} names no {read.tokenizer}, which reads the prompts of a {family}")
    place = place_of(folder, parts[read.tokenizer])
    if not Path(path).is_dir() and not (place / "tokenizer_config.json").is_file():
        # Of a hub model only what was asked for is here.
        return None
    config = {}
    if read.encoder in parts and (file := place_of(folder, parts[read.encoder]) / "config.json").is_file():
        config = read_object(file)
    return _reader(path, place, parts[read.tokenizer].class_name, model, read.tokens, config, lower=read.lower)


def scorer_reader(name: str, path: str, revision: str | None) -> _Reader | None:
    """Returns what reads a CLIP scorer's texts; None where it is not on this machine.

    Raises:
        ModelError: as of `prompt_reader`.
    """
    folder = cached_folder(path, revision, "config.json")
    if folder is None or not (Path(path).is_dir() or (folder / "tokenizer_config.json").is_file()):
        return None
    config = read_object(folder / "config.json").get("text_config")
    return _reader(path, folder, "AutoTokenizer", name, 0, config if isinstance(config, dict) else {})


def _reader(path: str, *args: Any, **options: Any) -> _Reader | None:
    try:
        return _made(*args, **options)
    except ModelError:
        if Path(path).is_dir():
            raise
        # Of a hub model half may be here: whoever loads it fetches the rest.
        return None


def _made(
    place: Path, class_name: str, name: str, tokens: int, config: dict[str, Any], *, lower: bool = False
) -> _Reader:
    import transformers

    from loco_core.quiet import quiet_libraries

    quiet_libraries()
    try:
        options = {"trust_remote_code": False} if class_name == "AutoTokenizer" else {}
        tokenizer = getattr(transformers, class_name).from_pretrained(str(place), local_files_only=True, **options)
    except Exception as error:  # a damaged folder makes libraries raise anything
        raise ModelError(f"cannot load the tokenizer in {place}: {reason_of(error)}") from error
    check_words(tokenizer, str(place))
    positions, words = config.get("max_position_embeddings"), config.get("vocab_size")
    longest = tokens or min(tokenizer.model_max_length, _ENDLESS)
    if class_name == "AutoTokenizer" and isinstance(positions, int):
        longest = min(longest, positions)
    if longest >= _ENDLESS:
        raise ModelError(f"the tokenizer in {place} says no model_max_length; expected tokenizer_config.json to say it")
    if not tokens and isinstance(positions, int) and longest > positions:
        raise ModelError(
            f"the tokenizer in {place} gives {longest} tokens, and its text encoder reads {positions}; expected a "
            "model_max_length of as many"
        )
    return _Reader(tokenizer, name, longest, words if isinstance(words, int) else None, lower)


def check_texts(
    spec: SweepSpec, attributes: Sequence[Attribute], models: Sequence[_Reader], scorer: _Reader | None
) -> None:
    """Refuses texts that would be cut, and pairs that read the same.

    Args:
        spec: the sweep.
        attributes: its attributes.
        models: what reads prompts.
        scorer: what reads score texts; None where nobody can tell before it is loaded.

    Raises:
        SpecError: there is one; ``loc`` says of which attribute.
    """
    for i, attribute in enumerate(attributes):
        # Edits are measured on all of them.
        records = attribute.records[: None if spec.edit else spec.prompts]
        with located("attributes", i):
            for record in records:
                for reader in models:
                    _check_pair(reader, "the prompt", record.prompt, "the donor", record.donor)
                if scorer is not None:
                    _check_pair(scorer, "the score text", record.score_text, "the donor text", record.donor_text)
            # What other records are about is scored too, as unrelated.
            contents = dict.fromkeys(record.content_text for record in attribute.records)
            for reader in [scorer] if scorer else []:
                for text in contents:
                    reader.ids(text, "the content text")


def _check_pair(reader: _Reader, what: str, text: str, other_what: str, other: str) -> None:
    if reader.ids(text, what) == reader.ids(other, other_what) and text != other:
        raise SpecError(
            f'{reader.name} reads {what} "{text[:60]}" and {other_what} "{other[:60]}" alike, so that nothing can be '
            "measured; expected words that its tokenizer tells apart"
        )
