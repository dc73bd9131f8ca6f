"""Plain YAML: maps with text keys, lists, text, numbers. Every value knows where it stands in its file."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from yaml.composer import ComposerError
from yaml.constructor import ConstructorError
from yaml.reader import ReaderError

from loco_core.errors import SpecError, did_you_mean

Loc = tuple[str | int, ...]

MAX_BYTES = 2 * 2**20
MAX_NODES = 200_000
MAX_DEPTH = 40
SHOWN = 60
"""Letters of a value that an error repeats."""
LISTED = 5
"""Files of a folder that an error lists."""
_TAG = "tag:yaml.org,2002:"
_TAGS = ("str", "int", "float", "bool", "null", "seq", "map")
_NO_TEXT = re.compile("[\x00\ud800-\udfff]")
"""What an escape can write and no other program reads: NUL, and halves of surrogate pairs."""
_IN_FILE = "<unicode string>"
"""What PyYAML calls a text without a name."""
_ENDLESS = "nested or repeated without end; expected a plain file"


class _Loader(yaml.SafeLoader):
    """Safe, and with the plain scalars of YAML 1.2: ``no`` is a word, ``1e-3`` a number, ``12:30`` text."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012 (PyYAML's own name)
    depth = count = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        """Composes a value, unless there are too many in each other or in all: PyYAML recurses until Python ends."""
        self.depth, self.count = self.depth + 1, self.count + 1
        if self.depth > MAX_DEPTH or self.count > MAX_NODES:
            raise ComposerError(None, None, _ENDLESS, self.peek_event().start_mark)  # type: ignore[no-untyped-call]
        try:
            return super().compose_node(parent, index)
        finally:
            self.depth -= 1

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        """Puts what ``<<`` brings before a map's own keys; of several maps the first counts, as YAML says.

        PyYAML's own tells keys by which object they are, so that of several maps the last would count.
        """
        brought: dict[Any, tuple[yaml.Node, yaml.Node]] = {}
        own = []
        for key, value in node.value:
            if key.tag != f"{_TAG}merge":
                own.append((key, value))
                continue
            for part in value.value if isinstance(value, yaml.SequenceNode) else [value]:
                if not isinstance(part, yaml.MappingNode):
                    problem = "expected a mapping or list of mappings for merging"
                    raise ConstructorError(None, None, problem, part.start_mark)
                self.flatten_mapping(part)
                named = {each.value if isinstance(each.value, str) else id(each): (each, of) for each, of in part.value}
                brought = {**named, **brought}
        node.value = [*brought.values(), *own]

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        """Constructs a value of a plain kind; says where it stands if it is not what its tag says."""
        kind = str(node.tag).removeprefix(_TAG)
        if kind not in _TAGS:
            raise ConstructorError(None, None, f"the tag {_cut(node.tag)} is not known; expected none", node.start_mark)
        try:
            return super().construct_object(node, deep)
        except yaml.YAMLError:
            raise
        except Exception as error:  # the constructors check nothing: KeyError of a bool, ValueError of a number, ...
            problem = f"{_cut(node.value)} is no {kind}; expected plain text or a number"
            raise ConstructorError(None, None, problem, node.start_mark) from error


for _tag, _pattern, _first in (
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("null", r"~|null|Null|NULL|", "~nN"),
    ("int", r"[-+]?(0|[1-9][0-9]*)", "-+0123456789"),
    (
        "float",
        r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
        "-+0123456789.",
    ),
    ("merge", r"<<", "<"),
):
    _resolver = re.compile(f"^(?:{_pattern})$")
    _Loader.add_implicit_resolver(f"{_TAG}{_tag}", _resolver, [*_first, *([""] if _tag == "null" else [])])


class YamlFile:
    """A file whose values can be found."""

    def __init__(self, path: Path, root: yaml.MappingNode) -> None:
        """Takes what was read.

        Args:
            path: path of the file.
            root: its top.
        """
        self.path, self.root = path, root
        self._names: dict[int, dict[str, tuple[yaml.Node, yaml.Node]]] = {}

    def mark(self, node: yaml.Node) -> str:
        """Returns ``file:line:column`` of a value."""
        return _place(self.path, node.start_mark)

    def at(self, loc: Loc, *, key: bool = False) -> yaml.Node:
        """Returns the deepest value on the way that ``loc`` goes; parts that are not in the file are passed over.

        Args:
            loc: pydantic's, in which names of union members stand between keys.
            key: whether to return the last key in place of its value.
        """
        node: yaml.Node = self.root
        for i, part in enumerate(loc):
            if isinstance(node, yaml.MappingNode):
                if (found := self._named(node).get(str(part))) is not None:
                    node = found[0] if key and i == len(loc) - 1 else found[1]
            elif isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
                node = node.value[part]
        return node

    def _named(self, node: yaml.MappingNode) -> dict[str, tuple[yaml.Node, yaml.Node]]:
        """Returns keys and values by name: a file may have tens of thousands of wrong ones."""
        if id(node) not in self._names:
            # Of several of one name the last: those that were merged stand before its own.
            pairs = [pair for pair in node.value if isinstance(pair[0].value, str)]
            self._names[id(node)] = {pair[0].value: pair for pair in pairs}
        return self._names[id(node)]

    def forget(self) -> None:
        """Forgets where keys stand; to be called when a value was changed."""
        self._names.clear()

    def data(self) -> Any:
        """Returns the content.

        Raises:
            SpecError: a value is not what its tag says it is, or a key is no text.
        """
        loader = _Loader("")
        try:
            return loader.construct_document(self.root)
        except yaml.YAMLError as error:
            raise SpecError(_problem(self.path, error)) from None
        finally:
            loader.dispose()


def value_of(word: str, text: str) -> yaml.Node:
    """Returns a value that stands in no file; errors about it name the word that it is from.

    Args:
        word: what it is a part of.
        text: the value, as YAML.

    Raises:
        SpecError: it is none.
    """
    try:
        loader = _Loader(text)
        loader.name = word
        node: yaml.Node | None = loader.get_single_node()
        loader.dispose()
    except (yaml.YAMLError, ValueError, OverflowError) as error:
        problem = getattr(error, "problem", None) or str(error).splitlines()[0]
        raise SpecError(f"{word}: {problem}; expected KEY=VALUE with a value in YAML") from None
    if node is None:
        mark = yaml.Mark(word, 0, 0, 0, "", 0)
        return yaml.ScalarNode(f"{_TAG}null", "", mark, mark)
    _check(Path(word), node)
    return node


def read(path: Path, what: str, required: str, text: str | None = None) -> YamlFile:
    """Reads a file, and no more than can be a plain one.

    Args:
        path: path of the file.
        what: name of what it should be, in words.
        required: its keys, in words.
        text: its content, where that is known already.

    Raises:
        SpecError: one line per problem, ``file:line:column: what is wrong; what was expected``.
    """
    text = _text(path, what) if text is None else text
    try:
        root = _composed(path, text)
    except ReaderError as error:
        raise SpecError(_unreadable(path, text, error)) from None
    except yaml.YAMLError as error:
        raise SpecError(_problem(path, error)) from None
    if root is None:
        raise SpecError(f"{path}:1:1: the file is empty; expected at least {required}")
    if not isinstance(root, yaml.MappingNode):
        raise SpecError(f"{_place(path, root.start_mark)}: expected keys such as {required} at the top")
    _check(path, root)
    file = YamlFile(path, root)
    repeated = [f"{file.mark(key)}: key {_cut(key.value)} is given twice; expected once" for key in _repeated(root)]
    if repeated:
        raise SpecError("\n".join(repeated[:20]))
    return file


def _text(path: Path, what: str) -> str:
    try:
        with path.open("rb") as stream:
            # No more: a device has no end.
            raw = stream.read(MAX_BYTES + 1)
    except FileNotFoundError:
        siblings = [p.name for pattern in ("*.yaml", "*.yml") for p in path.parent.glob(pattern)]
        hint = did_you_mean(path.name, siblings, LISTED) if siblings else ""
        raise SpecError(f"{path}: no such file; expected {what} in YAML{hint}") from None
    except OSError as error:
        raise SpecError(f"{path}: cannot be read ({error.strerror}); expected {what} in YAML") from None
    if len(raw) > MAX_BYTES:
        raise SpecError(f"{path}: more than {MAX_BYTES:,} bytes; expected {what} of at most that")
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        column = error.start - raw.rfind(b"\n", 0, error.start)
        raise SpecError(f"{path}:{line}:{column}: not a text file; expected {what} in YAML, UTF-8") from None


def _composed(path: Path, text: str) -> yaml.Node | None:
    loader = _Loader(text)
    try:
        node: yaml.Node | None = loader.get_single_node()
    except (ValueError, OverflowError) as error:
        # Of escapes and version numbers the scanner checks the letters alone.
        where = _place(path, loader.get_mark())
        raise SpecError(f"{where}: an escape or a number that nothing can be; expected valid YAML") from error
    finally:
        loader.dispose()
    return node


def _check(path: Path, root: yaml.Node) -> None:
    """Refuses what expands without end, before anything expands it, and what is no text."""
    stack = [(root, 0)]
    count = 0
    while stack:
        node, depth = stack.pop()
        count += 1
        if count > MAX_NODES or depth > MAX_DEPTH:
            raise SpecError(f"{_place(path, node.start_mark)}: {_ENDLESS}")
        if isinstance(node, yaml.ScalarNode) and (bad := _NO_TEXT.search(node.value)):
            where = _place(path, node.start_mark)
            raise SpecError(f"{where}: {_cut(node.value)} holds U+{ord(bad[0]):04X}, which is no letter; expected text")
        stack += [(child, depth + 1) for child in _children(node)]


def _children(node: yaml.Node) -> list[yaml.Node]:
    if isinstance(node, yaml.MappingNode):
        return [child for pair in node.value for child in pair]
    return list(node.value) if isinstance(node, yaml.SequenceNode) else []


def _repeated(node: yaml.Node) -> Iterator[yaml.Node]:
    if isinstance(node, yaml.MappingNode):
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if key.value in seen:
                    yield key
                seen.add(key.value)
    for child in _children(node):
        yield from _repeated(child)


def _place(path: Path, mark: Any) -> str:
    # What comes from the command line is named as it stands there.
    return f"{path}:{mark.line + 1}:{mark.column + 1}" if mark.name == _IN_FILE else str(mark.name)


def _problem(path: Path, error: yaml.YAMLError) -> str:
    if not isinstance(error, yaml.MarkedYAMLError) or error.problem_mark is None:
        return f"{path}:1:1: {str(error).splitlines()[0]}; expected valid YAML"
    problem = " ".join(f"{_place(path, error.problem_mark)}: {error.problem}".split())
    if "\\t" in problem:
        return f"{problem}; expected spaces for indentation, not tabs"
    return problem if "; expected" in problem else f"{problem}; expected valid YAML"


def _unreadable(path: Path, text: str, error: ReaderError) -> str:
    before = text[: error.position]
    line, column = before.count("\n") + 1, len(before) - before.rfind("\n")
    return f"{path}:{line}:{column}: U+{ord(text[error.position]):04X} is no letter; expected valid YAML"


def _cut(value: Any) -> str:
    return cut(repr(value) if isinstance(value, str) else "what is here")


def cut(text: str) -> str:
    """Returns as much of a value as an error repeats."""
    return text if len(text) <= SHOWN else f"{text[: SHOWN - 3]}..."
