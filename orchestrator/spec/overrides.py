"""Values that stand on the command line in place of those of a file: ``seeds=16 generation.steps=20``."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterable

import yaml

from loco_core.errors import SpecError
from orchestrator.spec.plain_yaml import YamlFile, value_of

_WORD = re.compile(r"([^\s=.]+(?:\.[^\s=.]+)*)=(.*)", re.DOTALL)


def keys_of(word: str) -> tuple[str, ...]:
    """Returns the keys that an override names, from the top.

    Raises:
        SpecError: it is no override.
    """
    found = _WORD.fullmatch(word)
    if found is None:
        raise SpecError(f"{word}: expected KEY=VALUE such as seeds=16 or generation.steps=20")
    return tuple(found[1].split("."))


def override(file: YamlFile, words: Iterable[str]) -> None:
    """Puts values in place of those of a file; the value is YAML, and errors about it name the override.

    Args:
        file: the file.
        words: ``KEY=VALUE`` each; a position in a list counts from 0, as in ``models.0.dtype=float16``.

    Raises:
        SpecError: a word is no override, its value is no YAML, or what it names cannot hold it.
    """
    words = list(words)
    if not words:
        return
    # What ``<<`` brings stands where it is brought to, so that one key of it can be put in place of another.
    file.data()
    for word in words:
        keys = keys_of(word)
        node: yaml.Node = file.root
        for depth, key in enumerate(keys[:-1]):
            # A copy, as an alias may bring the same value to another place.
            node = _put(node, key, copy.copy(_child(node, key) or _no_keys(word)), word, keys[:depth])
        _put(node, keys[-1], value_of(word, word.partition("=")[2]), word, keys[:-1])
        file.forget()


def _child(node: yaml.Node, key: str) -> yaml.Node | None:
    if isinstance(node, yaml.SequenceNode):
        return node.value[int(key)] if key.isdecimal() and int(key) < len(node.value) else None
    values = [value for each, value in node.value if each.value == key] if isinstance(node, yaml.MappingNode) else []
    return values[-1] if values else None


def _put(node: yaml.Node, key: str, value: yaml.Node, word: str, above: tuple[str, ...]) -> yaml.Node:
    if isinstance(node, yaml.SequenceNode):
        if not key.isdecimal() or int(key) >= len(node.value):
            raise SpecError(f"{word}: {'.'.join(above)} has {len(node.value)} items; expected one of them, from 0")
        node.value = [value if place == int(key) else each for place, each in enumerate(node.value)]
    elif isinstance(node, yaml.MappingNode):
        kept = [pair for pair in node.value if pair[0].value != key]
        node.value = [*kept, (_text(key, word), value)]
    else:
        where = ".".join(above)
        raise SpecError(f"{word}: {where} holds no keys; expected {where}=..., with all that it is to be")
    return value


def _text(key: str, word: str) -> yaml.Node:
    mark = value_of(word, "").start_mark
    return yaml.ScalarNode("tag:yaml.org,2002:str", key, mark, mark)


def _no_keys(word: str) -> yaml.Node:
    return value_of(word, "{}")
