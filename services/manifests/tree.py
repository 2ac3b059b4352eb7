"""Reads YAML or JSON text into trees of nodes that know their line and column, within fixed limits.

The tree is built from the parser's events, one at a time and without recursion: the size, depth and alias limits
hold before anything is built that could exceed them, and no input can exhaust the stack.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

import yaml

from services.errors import FieldViolation, InvalidArgument
from services.manifests import scalars
from services.manifests.findings import Findings, refusal, shorten
from services.manifests.paths import Path, format_path

MAX_BYTES = 1 << 20
"""Of the manifest's UTF-8 text."""
MAX_DEPTH = 64
MAX_NODES = 100_000
"""After aliases and merge keys are expanded."""
MAX_ALIASES = 1_000
_MAX_TAG_DIRECTIVES = 16
"""The parser compares each with all others."""
_CHARACTERS_PER_NODE = 32
"""A long text counts as several nodes, so that aliases cannot multiply it either."""

_LOADER: Final = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_UNREADABLE = re.compile("[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_SURROGATE_PAIR = re.compile(r"(?<!\\)((?:\\\\)*)\\u([dD][89abAB][0-9a-fA-F]{2})\\u([dD][c-fC-F][0-9a-fA-F]{2})")
_TAG_DIRECTIVE = re.compile(r"^%TAG", re.MULTILINE)


class Position(NamedTuple):
    """A place in the manifest's text."""

    line: int
    """1-based."""
    column: int
    """1-based, in characters."""


class Node:
    """One value of the text: exactly one of `mapping`, `sequence` or a scalar `value`."""

    __slots__ = ("height", "keys", "mapping", "position", "sequence", "source", "value", "weight")

    def __init__(self, position: Position) -> None:
        self.position = position
        self.value: scalars.Scalar = None
        self.source: str | None = None
        """The text of an unquoted scalar."""
        self.mapping: dict[str, Node] | None = None
        self.keys: dict[str, Position] = {}
        """Where each key of the mapping stands."""
        self.sequence: list[Node] | None = None
        self.weight = 1
        """Nodes from here down, aliases expanded."""
        self.height = 1

    def child(self, step: str | int) -> Node | None:
        """The node one step down, or None where there is none."""
        if self.mapping is not None:
            return self.mapping.get(step) if isinstance(step, str) else None
        if self.sequence is not None and isinstance(step, int) and 0 <= step < len(self.sequence):
            return self.sequence[step]
        return None


@dataclass(slots=True)
class _Frame:
    """A collection that is still open."""

    node: Node
    anchor: str | None
    key: str | None = None
    """Of a mapping: the key whose value comes next; None while a key is expected."""
    merging: bool = False
    merges: list[tuple[Node, Position]] = field(default_factory=list)

    def step(self) -> str | int | None:
        if self.node.sequence is not None:
            return len(self.node.sequence)
        return "<<" if self.merging else self.key


def read(text: str) -> list[Node]:
    """The root node of each document that is not empty, in order.

    Raises InvalidArgument with line and column: MANIFEST_TOO_LARGE, MANIFEST_SYNTAX, MANIFEST_TOO_DEEP,
    MANIFEST_TOO_MANY_ALIASES, DUPLICATE_KEY, KEY_NOT_A_STRING, UNSUPPORTED_TAG, BAD_VALUE.
    """
    _check_text(text)
    return _Builder().build(_events(_join_surrogates(text)))


def _check_text(text: str) -> None:
    size = len(text) if len(text) > MAX_BYTES else len(text.encode("utf-8", "surrogatepass"))
    if size > MAX_BYTES:
        message = f"the manifest has {size:,} bytes or more, the limit is {MAX_BYTES:,} bytes"
        raise refusal(FieldViolation(field_path="", message=message, reason="MANIFEST_TOO_LARGE"))
    if bad := _UNREADABLE.search(text):
        code = ord(bad.group())
        kind = "a lone surrogate" if 0xD800 <= code <= 0xDFFF else "a control character or none at all"
        line = text.count("\n", 0, bad.start()) + 1
        column = bad.start() - text.rfind("\n", 0, bad.start())
        raise _syntax(f"U+{code:04X} is {kind}; a manifest is plain UTF-8 text", Position(line, column))
    directives = list(_TAG_DIRECTIVE.finditer(text))
    if len(directives) > _MAX_TAG_DIRECTIVES:
        line = text.count("\n", 0, directives[_MAX_TAG_DIRECTIVES].start()) + 1
        raise _syntax(f"more than {_MAX_TAG_DIRECTIVES} %TAG directives", Position(line, 1))


def _join_surrogates(text: str) -> str:
    """JSON writes characters beyond U+FFFF as two escapes, which YAML does not know: writes them as one."""
    if not text.lstrip().startswith(("{", "[")) or not _SURROGATE_PAIR.search(text):
        return text
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return text

    def join(pair: re.Match[str]) -> str:
        high, low = int(pair[2], 16), int(pair[3], 16)
        return f"{pair[1]}\\U{0x10000 + ((high - 0xD800) << 10) + (low - 0xDC00):08x}"

    return _SURROGATE_PAIR.sub(join, text)


def _events(text: str) -> Iterator[yaml.Event]:
    """The parser's events; its errors become ours."""
    loader = _LOADER(text)
    try:
        while (event := loader.get_event()) is not None:
            yield event
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        position = Position(mark.line + 1, mark.column + 1) if mark else Position(1, 1)
        raise _syntax(_sentence(error), position) from None
    except yaml.YAMLError as error:
        raise _syntax(f"cannot be read as YAML: {getattr(error, 'reason', error)}", Position(1, 1)) from None
    finally:
        loader.dispose()


def _sentence(error: yaml.MarkedYAMLError) -> str:
    context = f"{error.context}: " if error.context else ""
    return f"cannot be read as YAML: {context}{error.problem or 'syntax error'}"


def _syntax(message: str, position: Position, reason: str = "MANIFEST_SYNTAX", path: str = "") -> InvalidArgument:
    found = FieldViolation(field_path=path, message=message, reason=reason, line=position.line, column=position.column)
    return refusal(found)


class _Builder:
    """Turns events into nodes. One per text."""

    def __init__(self) -> None:
        self._documents: list[Node] = []
        self._stack: list[_Frame] = []
        self._anchors: dict[str, Node | None] = {}
        """None while the anchored collection is still open."""
        self._nodes = 0
        self._aliases = 0
        self._spent = 0
        """Expanded nodes of the finished documents, and keys looked at while merging."""
        self._findings = Findings()

    def build(self, events: Iterator[yaml.Event]) -> list[Node]:
        handlers: dict[type[yaml.Event], Callable[[Any], None]] = {
            yaml.ScalarEvent: self._scalar,
            yaml.MappingStartEvent: self._open,
            yaml.SequenceStartEvent: self._open,
            yaml.MappingEndEvent: self._close,
            yaml.SequenceEndEvent: self._close,
            yaml.AliasEvent: self._alias,
            yaml.DocumentStartEvent: self._start_document,
        }
        for event in events:
            if handler := handlers.get(type(event)):
                handler(event)
        self._findings.raise_if_any()
        return self._documents

    def _start_document(self, event: yaml.Event) -> None:
        self._anchors = {}

    def _scalar(self, event: yaml.ScalarEvent) -> None:
        position = self._count(event)
        text = event.value
        frame = self._stack[-1] if self._stack else None
        expects_key = frame is not None and frame.key is None and not frame.merging and frame.node.mapping is not None
        if expects_key and text == "<<" and event.tag is None and event.implicit[0]:
            self._merge_key(position)
            return
        node = Node(position)
        node.value = self._resolve(event, position)
        if event.implicit[0]:
            node.source = text
        node.weight += len(text) // _CHARACTERS_PER_NODE
        if event.anchor:
            self._anchors[event.anchor] = node
        self._attach(node, position)

    def _resolve(self, event: yaml.ScalarEvent, position: Position) -> scalars.Scalar:
        text: str = event.value
        if "\0" in text:
            self._find("a value cannot hold the character U+0000", position, "BAD_VALUE")
        try:
            if event.tag is None:
                return scalars.plain(text) if event.implicit[0] else text
            if self._known_tag(event.tag, position):
                return scalars.tagged(event.tag, text)
        except ValueError as error:
            self._find(str(error), position, "BAD_VALUE")
        return text

    def _known_tag(self, tag: str, position: Position) -> bool:
        if tag == "!" or tag in scalars.CORE_TAGS:
            return True
        self._find(f"tag {shorten(tag)} is not supported; only YAML's core tags are", position, "UNSUPPORTED_TAG")
        return False

    def _open(self, event: yaml.CollectionStartEvent) -> None:
        position = self._count(event)
        self._check_depth(len(self._stack) + 1, position)
        frame = self._stack[-1] if self._stack else None
        if frame and frame.node.mapping is not None and frame.key is None and not frame.merging:
            raise _syntax("a key must be text, this is a collection", position, "KEY_NOT_A_STRING", self._path())
        node = Node(position)
        expected = scalars.TAG + ("map" if isinstance(event, yaml.MappingStartEvent) else "seq")
        if event.tag not in (None, "!", expected) and (self._known_tag(event.tag, position)):
            self._find(f"a collection cannot have tag {shorten(event.tag)}", position, "UNSUPPORTED_TAG")
        if isinstance(event, yaml.MappingStartEvent):
            node.mapping = {}
        else:
            node.sequence = []
        if event.anchor:
            self._anchors[event.anchor] = None
        self._stack.append(_Frame(node, event.anchor))

    def _close(self, event: yaml.Event) -> None:
        frame = self._stack.pop()
        for source, position in frame.merges:
            self._merge(frame.node, source, position)
        if frame.anchor:
            self._anchors[frame.anchor] = frame.node
        self._attach(frame.node, frame.node.position)

    def _alias(self, event: yaml.AliasEvent) -> None:
        position = self._count(event)
        self._aliases += 1
        if self._aliases > MAX_ALIASES:
            raise self._too_many_aliases(f"more than {MAX_ALIASES:,} aliases", position)
        if event.anchor not in self._anchors:
            raise _syntax(f"alias *{event.anchor} has no anchor before it", position, path=self._path())
        node = self._anchors[event.anchor]
        if node is None:
            raise _syntax(f"alias *{event.anchor} stands inside its own anchor", position, path=self._path())
        self._check_depth(len(self._stack) + node.height, position)
        self._attach(node, position)

    def _attach(self, node: Node, position: Position) -> None:
        """Puts a finished node where the innermost open collection wants it; `position` is where it is referred to."""
        if not self._stack:
            self._finish(node)
            return
        frame = self._stack[-1]
        parent = frame.node
        if parent.sequence is not None:
            parent.sequence.append(node)
        elif frame.merging:
            frame.merging = False
            frame.merges.extend((source, position) for source in self._sources(node, position))
            return
        elif frame.key is None:
            self._key(frame, node, position)
            return
        elif parent.mapping is not None:
            parent.mapping[frame.key] = node
            frame.key = None
        self._grow(parent, node, position)

    def _grow(self, parent: Node, child: Node, position: Position) -> None:
        parent.weight += child.weight
        parent.height = max(parent.height, child.height + 1)
        if parent.weight + self._spent > MAX_NODES:
            raise self._too_big(position)

    def _key(self, frame: _Frame, node: Node, position: Position) -> None:
        key = node.value
        if not isinstance(key, str):
            shown = node.source if node.source is not None else "a collection"
            self._find(f"a key must be text, {shorten(shown)} is not; quote it", position, "KEY_NOT_A_STRING")
            key = f"{shown}"
        first = frame.node.keys.get(key)
        frame.key = key
        if first is not None:
            message = f"key {shorten(key)} is given twice: first at line {first.line}, again at line {position.line}"
            self._find(message, position, "DUPLICATE_KEY")
            return
        frame.node.keys[key] = position
        frame.node.weight += 1 + len(key) // _CHARACTERS_PER_NODE

    def _merge_key(self, position: Position) -> None:
        frame = self._stack[-1]
        frame.merging = True
        first = frame.node.keys.get("<<")
        if first is not None:
            message = f"key << is given twice: first at line {first.line}, again at line {position.line}"
            self._find(message, position, "DUPLICATE_KEY")
        frame.node.keys["<<"] = position

    def _sources(self, node: Node, position: Position) -> Sequence[Node]:
        nodes = node.sequence if node.sequence is not None else [node]
        if all(source.mapping is not None for source in nodes):
            return nodes
        self._find("<< merges mappings; this is none", position, "BAD_VALUE")
        return ()

    def _merge(self, target: Node, source: Node, position: Position) -> None:
        if target.mapping is None or source.mapping is None:
            return
        self._spent += len(source.mapping)
        if self._spent > MAX_NODES:
            raise self._too_big(position)
        for key, child in source.mapping.items():
            if key not in target.mapping:
                target.mapping[key] = child
                target.keys[key] = source.keys[key]
                target.weight += 1
                self._grow(target, child, position)
        self._check_depth(len(self._stack) + target.height, position)

    def _finish(self, root: Node) -> None:
        self._spent += root.weight
        if root.mapping is None and root.sequence is None and root.value is None:
            return
        self._documents.append(root)

    def _count(self, event: yaml.Event) -> Position:
        mark: Any = event.start_mark
        position = Position(mark.line + 1, mark.column + 1)
        self._nodes += 1
        if self._nodes > MAX_NODES:
            raise self._too_big(position)
        return position

    def _check_depth(self, depth: int, position: Position) -> None:
        if depth > MAX_DEPTH:
            raise _syntax(f"nested deeper than {MAX_DEPTH} levels", position, "MANIFEST_TOO_DEEP", self._path())

    def _too_big(self, position: Position) -> InvalidArgument:
        if self._aliases:
            message = f"aliases and merge keys expand it to more than {MAX_NODES:,} values"
            return self._too_many_aliases(message, position)
        return _syntax(f"more than {MAX_NODES:,} values", position, "MANIFEST_TOO_LARGE")

    def _too_many_aliases(self, message: str, position: Position) -> InvalidArgument:
        return _syntax(message, position, "MANIFEST_TOO_MANY_ALIASES", self._path())

    def _path(self) -> str:
        path: Path = tuple(step for frame in self._stack if (step := frame.step()) is not None)
        return format_path(path, document=len(self._documents))

    def _find(self, message: str, position: Position, reason: str) -> None:
        self._findings.add(
            FieldViolation(
                field_path=self._path(), message=message, reason=reason, line=position.line, column=position.column
            )
        )
