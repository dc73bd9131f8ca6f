"""What diffusers and transformers say of a sweep's models before anything is drawn: weights, steps and texts.

Torch-free to import: what is to be checked is plain data, which `check` takes in a process that may load torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from loco_core.diffusion import loading
from loco_core.diffusion.adapters import teach
from loco_core.diffusion.loading import check_weights
from loco_core.diffusion.schedules import check_noising, check_schedule, make_scheduler, named_scheduler
from loco_core.diffusion.tokens import UNQUOTED, in_full, quoted
from loco_core.errors import ModelError, SpecError, located
from loco_core.types import Attribute, Extras, TextualInversion

# Tokenizers that do not know how much is read say a number beyond all sense.
_ENDLESS = 1_000_000
Place = tuple[str | int, ...]
"""The value of a sweep that a check is about, e.g. ``("models", 0)``."""


@dataclass(frozen=True)
class Weights:
    """A folder whose weights are to be those of its models; see :func:`loco_core.diffusion.loading.check_weights`.

    Attributes:
        folder: folder of a pipeline, or of a CLIP model.
        digest: hash of its content.
        left_out: components that it is loaded without, sorted.
        place: where the sweep names it.
        file: checkpoint in one file that the folder lends what it lacks; None where the folder is the model.
        extras: what it is loaded with beside that; None for nothing.
    """

    folder: str
    digest: str
    left_out: tuple[str, ...]
    place: Place
    file: str | None = None
    extras: Extras | None = None


@dataclass(frozen=True)
class Steps:
    """Denoising steps that a model's scheduler is to take.

    Attributes:
        model: id of the model.
        scheduler: class of its own scheduler.
        config: configuration of its own scheduler.
        named: class of the scheduler that the sweep names in its place; None where it names none.
        steps: number of steps.
        partly: whether something happens at some of the steps only.
        place: where the sweep names the model.
        noises: whether attacks put noise on clean pictures by it.
        learns: whether attacks learn by that noise.
    """

    model: str
    scheduler: str
    config: Mapping[str, Any]
    named: str | None
    steps: int
    partly: bool
    place: Place
    noises: bool = False
    learns: bool = False


@dataclass(frozen=True)
class Reader:
    """A tokenizer on this machine, and what is known of how much is read of what it says.

    Attributes:
        name: name of the model or scorer that reads.
        folder: folder of the tokenizer.
        class_name: class of the tokenizer.
        library: library that holds it: ``transformers``, or a module of a pipeline of diffusers.
        digest: hash of the weights that it belongs to.
        tokens: how many tokens are read at most; 0 as the tokenizer itself says.
        positions: how many positions the text encoder has; None where nobody says so.
        words: how many words the text encoder has embeddings of; None where nobody says so.
        lower: whether texts are written in small letters first.
        whole: whether a tokenizer that cannot be loaded is an error; of a hub model half may be on this machine.
        place: where the sweep names the model or scorer.
        template: what a text is put into, ``{}`` in its place.
        taught: words that it learns of textual inversions.
        unquoted: whether words in quotation marks are refused.
    """

    name: str
    folder: str
    class_name: str
    library: str
    digest: str
    tokens: int
    positions: int | None
    words: int | None
    lower: bool
    whole: bool
    place: Place
    template: str = "{}"
    taught: tuple[TextualInversion, ...] = ()
    unquoted: bool = False


@dataclass(frozen=True)
class Checks:
    """All that is to be checked of a sweep.

    Attributes:
        weights: folders whose weights are looked at.
        steps: one entry per model.
        readers: what reads prompts.
        scorer: what reads score texts; None where nobody can tell before it is loaded.
        attributes: the attributes of the sweep, in its order.
        records: how many records of an attribute are drawn, from the first one on; None all of them.
        free_tokens: how many free tokens attacks put in front of a prompt, at most.
    """

    weights: tuple[Weights, ...]
    steps: tuple[Steps, ...]
    readers: tuple[Reader, ...]
    scorer: Reader | None
    attributes: tuple[Attribute, ...]
    records: int | None
    free_tokens: int = 0


def check(wanted: Checks) -> None:
    """Refuses what would fail, or would be cut, in a worker.

    Args:
        wanted: what is to be checked.

    Raises:
        ModelError: weights are missing or of another shape, or a tokenizer cannot be loaded.
        SpecError: a scheduler cannot take the steps, a text is longer than what is read of it, or two texts read the
            same; ``loc`` says of which value of the sweep.
    """
    for item in wanted.weights:
        with located(*item.place):
            check_weights(Path(item.folder), item.digest, frozenset(item.left_out), item.file, item.extras)
    for steps in wanted.steps:
        with located(*steps.place):
            _check_steps(steps)
    found = [_loaded(reader) for reader in wanted.readers]
    scorer = _loaded(wanted.scorer) if wanted.scorer else None
    models = [item for item in found if item is not None]
    _check_texts(wanted.attributes, wanted.records, models, scorer)
    if wanted.free_tokens:
        _check_free(wanted.attributes, wanted.free_tokens, models)


def _check_steps(wanted: Steps) -> None:
    try:
        scheduler = make_scheduler(wanted.scheduler, wanted.config)
        if wanted.named is not None:
            scheduler = named_scheduler(wanted.named, scheduler)
        check_schedule(scheduler, wanted.steps, partly=wanted.partly)
        if wanted.noises:
            check_noising(scheduler, learned=wanted.learns)
    except ModelError as error:
        raise SpecError(f"{wanted.model}: {error}") from error


@dataclass(frozen=True)
class Tokenizer:
    """A tokenizer, and how much of what it says is read.

    Attributes:
        tokenizer: tokenizer of transformers.
        name: name of what reads.
        tokens: how many tokens are read at most.
        words: how many words the text encoder has embeddings of; None where nobody says so.
        lower: whether texts are written in small letters first.
        template: what a text is put into, ``{}`` in its place.
        unquoted: whether words in quotation marks are refused.
    """

    tokenizer: Any
    name: str
    tokens: int
    words: int | None
    lower: bool = False
    template: str = "{}"
    unquoted: bool = False

    def ids(self, text: str, what: str) -> tuple[int, ...]:
        """Returns the token ids that are read of a text.

        Args:
            text: the text.
            what: what the text is, for messages.

        Raises:
            SpecError: it is longer than that, holds a token that the encoder does not know, or is refused.
        """
        if self.unquoted and quoted(text):
            raise SpecError(f'{self.name}: {what} "{text[:60]}" {UNQUOTED}')
        said = text.lower().strip() if self.lower else text
        read = in_full(self.tokenizer, self.template.replace("{}", said))
        found = tuple(self.tokenizer(read).input_ids)
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


def load_tokenizer(reader: Reader) -> Tokenizer:
    """Loads a tokenizer.

    Args:
        reader: where it lies, and what is known of it.

    Raises:
        ModelError: it cannot be loaded, knows no words, or does not fit its text encoder.
    """
    tokenizer = loading.load_tokenizer(Path(reader.folder), reader.class_name, reader.library)
    longest = reader.tokens or min(tokenizer.model_max_length, _ENDLESS)
    if reader.class_name == "AutoTokenizer" and reader.positions is not None:
        longest = min(longest, reader.positions)
    if longest >= _ENDLESS:
        raise ModelError(
            f"the tokenizer in {reader.folder} says no model_max_length; expected tokenizer_config.json to say it"
        )
    if not reader.tokens and reader.positions is not None and longest > reader.positions:
        raise ModelError(
            f"the tokenizer in {reader.folder} gives {longest} tokens, and its text encoder reads {reader.positions}; "
            "expected a model_max_length of as many"
        )
    count = teach(tokenizer, reader.taught)
    words = None if reader.words is None else reader.words + count
    return Tokenizer(tokenizer, reader.name, longest, words, reader.lower, reader.template, reader.unquoted)


def _loaded(reader: Reader) -> Tokenizer | None:
    try:
        with located(*reader.place):
            return load_tokenizer(reader)
    except ModelError:
        if reader.whole:
            raise
        # Of a hub model half may be here: whoever loads it fetches the rest.
        return None


def _check_texts(
    attributes: tuple[Attribute, ...], records: int | None, models: list[Tokenizer], scorer: Tokenizer | None
) -> None:
    for i, attribute in enumerate(attributes):
        with located("attributes", i):
            for record in attribute.records[:records]:
                for reader in models:
                    _check_pair(reader, "the prompt", record.prompt, "the donor", record.donor)
                if scorer is not None:
                    _check_pair(scorer, "the score text", record.score_text, "the donor text", record.donor_text)
                    for text in record.siblings:
                        _check_pair(scorer, "the score text", record.score_text, "a sibling's text", text)
            # What other records are about is scored too, as unrelated.
            contents = dict.fromkeys(record.content_text for record in attribute.records)
            for reader in [scorer] if scorer else []:
                for text in contents:
                    reader.ids(text, "the content text")


def _check_free(attributes: tuple[Attribute, ...], free: int, models: list[Tokenizer]) -> None:
    """Refuses prompts that leave no room for free tokens; no other attack makes a prompt longer."""
    for i, attribute in enumerate(attributes):
        with located("attributes", i):
            for record in attribute.records:
                for reader in models:
                    count = len(reader.ids(record.prompt, "the prompt"))
                    if count + free > reader.tokens:
                        raise SpecError(
                            f'the prompt "{record.prompt[:60]}" has {count} tokens, and an attack puts {free} in front '
                            f"of it; {reader.name} reads {reader.tokens}: shorten it, or lower the attack's tokens"
                        )


def _check_pair(reader: Tokenizer, what: str, text: str, other_what: str, other: str) -> None:
    if reader.ids(text, what) == reader.ids(other, other_what) and text != other:
        raise SpecError(
            f'{reader.name} reads {what} "{text[:60]}" and {other_what} "{other[:60]}" alike, so that nothing can be '
            "measured; expected words that its tokenizer tells apart"
        )
