"""How many sites a denoiser has, counted another way than they are found: by the attentions that read the text."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from loco_core.diffusion.attention_calls import AttentionCall, attention_calls
from loco_core.diffusion.site_check import SitesError
from loco_core.diffusion.sites import LONG, SHORT, record_sites, removed
from loco_core.errors import ModelError
from loco_core.types import Site

Run = Callable[[int], int]


@dataclass
class _Seen:
    """What was seen in one pass.

    Attributes:
        attentions: numbers of queries and keys of every attention, by the innermost module that asked for it.
        joined: sizes of the pieces of tensors that were put behind each other.
        given: tokens that projections of the sites were given, by their paths.
    """

    attentions: dict[str, list[tuple[int, int]]] = field(default_factory=dict)
    joined: list[tuple[int, ...]] = field(default_factory=list)
    given: dict[str, int] = field(default_factory=dict)


class _Joins(TorchFunctionMode):
    """Notes the sizes of what is put behind each other."""

    def __init__(self, found: list[tuple[int, ...]]) -> None:
        super().__init__()
        self._found = found

    def __torch_function__(self, function: Any, _: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if function in (torch.cat, torch.concat, torch.concatenate):
            pieces = args[0] if args else kwargs.get("tensors", ())
            axis = args[1] if len(args) > 1 else kwargs.get("dim", kwargs.get("axis", 0))
            self._found.append(tuple(int(piece.shape[axis]) for piece in pieces))
        return function(*args, **kwargs)


def find_sites(denoiser: torch.nn.Module, run: Run, tokens: int, where: str) -> tuple[tuple[Site, ...], int, bool]:
    """Finds the sites of a denoiser, and refuses it unless they are all.

    They are found by how many tokens their projections are given, and held against every attention whose keys become
    more where the text is longer, and against the other blocks of their lists.

    Args:
        denoiser: the denoiser.
        run: runs one pass with a text of so many tokens, and returns their number.
        tokens: how many tokens its texts have where the pipeline calls it.
        where: folder or hub id of the model.

    Returns:
        the sites in execution order, how many tokens the denoiser puts beside the text, and whether the image stands
        in front of it.

    Raises:
        SitesError: they are not all.
        ModelError: texts of two lengths cannot be read, or nobody can tell where the text stands among the tokens.
    """
    try:
        with torch.no_grad():
            sites = record_sites(denoiser, run)
            short, long, real = (_pass(denoiser, run, each, sites) for each in (SHORT, LONG, tokens))
    except (RuntimeError, ValueError, IndexError, TypeError, KeyError) as error:
        said = " ".join(str(error).split())[:200]
        raise ModelError(
            f"{where}: it could not be found out where the text enters, as its {type(denoiser).__name__} reads no "
            f"texts of {SHORT} and {LONG} tokens: {said}"
        ) from error
    found = [site.name for site in sites]
    paths = {site.attention_path for site in sites}
    missing = [path for path in _readers(short, long) if path not in paths]
    missing += [path for path in _bare(denoiser, paths) if not any(_holds(path, other) for other in missing)]
    if missing or not found:
        raise SitesError(where, found, [*found, *missing])
    more, last = _places(sites, short, long, where)
    if [real.given[site.key_path] - tokens for site in sites] != [long.given[site.key_path] - LONG for site in sites]:
        raise ModelError(
            f"{where}: beside texts of {tokens} and of {LONG} tokens its {type(denoiser).__name__} puts other numbers "
            "of tokens, so that it could not be found out which are the text's"
        )
    return sites, more, last


def _pass(denoiser: torch.nn.Module, run: Run, tokens: int, sites: Sequence[Site]) -> _Seen:
    seen = _Seen()

    def attended(path: str, call: AttentionCall) -> AttentionCall:
        seen.attentions.setdefault(path, []).append((call.query.shape[-2], call.key.shape[-2]))
        return call

    inner = [name for name, module in denoiser.named_modules() if name and any(True for _ in module.children())]
    held = [name for name in inner if callable(getattr(type(denoiser.get_submodule(name)), "forward", None))]
    with _noted_inputs(denoiser, sites, seen), _Joins(seen.joined), attention_calls(denoiser, held, attended):
        run(tokens)
    return seen


@contextmanager
def _noted_inputs(denoiser: torch.nn.Module, sites: Sequence[Site], seen: _Seen) -> Iterator[None]:
    handles = [
        denoiser.get_submodule(site.key_path).register_forward_pre_hook(
            lambda _, given, path=site.key_path: seen.given.__setitem__(path, given[0].shape[-2])
        )
        for site in sites
    ]
    with removed(handles):
        yield


def _readers(short: _Seen, long: _Seen) -> list[str]:
    """Returns the modules whose attentions have more keys where the text is longer, without those of a text alone."""
    found = []
    for path, calls in long.attentions.items():
        before = short.attentions.get(path, [])
        grown = [
            (few, many)
            for few, many in zip(before, calls, strict=False)
            # Of a text alone there are as many queries, and no more of them than tokens of the text.
            if many[1] > few[1] and not (few[0] == few[1] == SHORT and many[0] == many[1] == LONG)
        ]
        if grown or len(before) != len(calls):
            found.append(path)
    return [path for path in found if not any(_holds(path, other) for other in found)]


def _holds(path: str, other: str) -> bool:
    return other.startswith(f"{path}.")


def _bare(denoiser: torch.nn.Module, paths: Collection[str]) -> Iterator[str]:
    """Yields blocks without a site beside blocks of the same class that have one."""
    for name, blocks in denoiser.named_modules():
        if not isinstance(blocks, torch.nn.ModuleList) or len(blocks) < 2:
            continue
        having = [any(path.startswith(f"{name}.{number}.") for path in paths) for number in range(len(blocks))]
        kinds = {type(block) for block, has in zip(blocks, having, strict=True) if has}
        for number, (block, has) in enumerate(zip(blocks, having, strict=True)):
            if not has and type(block) in kinds:
                yield f"{name}.{number}"


def _places(sites: Sequence[Site], short: _Seen, long: _Seen, where: str) -> tuple[int, bool]:
    """Returns how many tokens stand beside the text at the sites, and whether the image stands in front of it."""
    shared = [site for site in sites if not site.text_only]
    if not shared:
        beside = {long.given[site.key_path] - LONG for site in sites}
        if len(beside) == 1 and (more := beside.pop()) >= 0:
            return more, False
        raise ModelError(f"{where}: it could not be found out which tokens of its sites are the text's")
    few, many = short.given[shared[0].key_path], long.given[shared[0].key_path]
    pairs = [
        (before, after)
        for before, after in zip(
            (pieces for pieces in short.joined if sum(pieces) == few),
            (pieces for pieces in long.joined if sum(pieces) == many),
            strict=False,
        )
        if len(before) == len(after) == 2
    ]
    # Either piece that becomes longer is the text, and the other one the image.
    found = {
        (after[grown[0]] - LONG, grown[0] == 1)
        for before, after in pairs
        if len(grown := [number for number in (0, 1) if after[number] > before[number]]) == 1
    }
    if len(found) != 1:
        raise ModelError(
            f"{where}: found {len(sites)} sites, and it could not be found out where the text stands among the tokens "
            f"of {len(shared)} of them, which text and image share"
        )
    return found.pop()
