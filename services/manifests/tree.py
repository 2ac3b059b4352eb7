"""Reads YAML or JSON text into trees of nodes that know their line and column, within fixed limits.

The tree is built from the parser's events, one at a time and without recursion: the size, depth and alias limits
hold before anything is built that could exceed them, and no input can exhaust the stack.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import yaml

from services.errors import InvalidArgument
from services.manifests import scalars
from services.manifests.events import events
from services.manifests.findings import Findings, shorten
from services.manifests.marks import Mark, Position, fault, position_of, syntax
from services.manifests.paths import Path, format_path

MAX_DEPTH = 64
MAX_NODES = 100_000
"""After aliases and merge keys are expanded."""
MAX_ALIASES = 1_000
_CHARACTERS_PER_NODE = 32
"""A long text counts as several nodes, so that aliases cannot multiply it either."""


class Node:
    """One value of the text: exactly one of `mapping`, `sequence` or a scalar `value`."""

    __slots__ = ("height", "keys", "mapping", "mark", "sequence", "source", "value", "weight")

    def __init__(self, mark: Mark) -> None:
        self.mark = mark
        self.value: scalars.Scalar = None
        self.source: str | None = None
        """The text of an unquoted scalar."""
        self.mapping: dict[str, Node] | None = None
        self.keys: dict[str, Mark] | None = None
        """Where each key of the mapping stands."""
        self.sequence: list[Node] | None = None
        self.weight = 1
        """Nodes from here down, aliases expanded."""
        self.height = 1

    @property
    def position(self) -> Position:
        """Where it starts."""
        return position_of(self.mark)

    def key_position(self, key: str | int) -> Position | None:
        """Where the key of a mapping stands, or None if this is no mapping or has no such key."""
        mark = self.keys.get(key) if self.keys and isinstance(key, str) else None
        return position_of(mark) if mark else None

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
    expects_key: bool
    key: str | None = None
    """Of a mapping: the key whose value comes next."""
    merging: bool = False
    """What comes next is the value of a merge key."""
    merges: list[tuple[Node, Mark]] = field(default_factory=list)

    def step(self) -> str | int | None:
        if self.node.sequence is not None:
            return len(self.node.sequence)
        return "<<" if self.merging else self.key


def read(text: str) -> list[Node]:
    """The root node of each document that is not empty, in order.

    Raises InvalidArgument with line and column: MANIFEST_TOO_LARGE, MANIFEST_SYNTAX, MANIFEST_TOO_DEEP,
    MANIFEST_TOO_MANY_ALIASES, DUPLICATE_KEY, KEY_NOT_A_STRING, UNSUPPORTED_TAG, BAD_VALUE.
    """
    return _Builder().build(events(text))


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
        self._count(event)
        text: str = event.value
        mark = _mark(event)
        frame = self._stack[-1] if self._stack else None
        expects_key = frame is not None and frame.expects_key
        if expects_key and text == "<<" and event.tag is None and event.implicit[0]:
            self._merge_key(mark)
            return
        value = self._resolve(event, text)
        if expects_key and event.anchor is None:
            self._key(value, text, mark)
            return
        node = Node(mark)
        node.value = value
        if event.implicit[0]:
            node.source = text
        node.weight += len(text) // _CHARACTERS_PER_NODE
        if event.anchor is not None:
            self._anchors[event.anchor] = node
        self._attach(node, mark)

    def _resolve(self, event: yaml.ScalarEvent, text: str) -> scalars.Scalar:
        if "\0" in text:
            self._find("a value cannot hold the character U+0000", _mark(event), "BAD_VALUE")
        try:
            if event.tag is None:
                return scalars.plain(text) if event.implicit[0] else text
            if self._known_tag(event.tag, _mark(event)):
                return scalars.tagged(event.tag, text)
        except ValueError as error:
            self._find(str(error), _mark(event), "BAD_VALUE")
        return text

    def _known_tag(self, tag: str, mark: Mark) -> bool:
        if tag == "!" or tag in scalars.CORE_TAGS:
            return True
        self._find(f"tag {shorten(tag)} is not supported; only YAML's core tags are", mark, "UNSUPPORTED_TAG")
        return False

    def _open(self, event: yaml.CollectionStartEvent) -> None:
        self._count(event)
        mark = _mark(event)
        self._check_depth(len(self._stack) + 1, mark)
        if self._stack and self._stack[-1].expects_key:
            raise syntax("a key must be text, this is a collection", mark, "KEY_NOT_A_STRING", self._path())
        is_mapping = isinstance(event, yaml.MappingStartEvent)
        expected = scalars.TAG + ("map" if is_mapping else "seq")
        if event.tag not in (None, "!", expected) and self._known_tag(event.tag, mark):
            self._find(f"a collection cannot have tag {shorten(event.tag)}", mark, "UNSUPPORTED_TAG")
        node = Node(mark)
        if is_mapping:
            node.mapping, node.keys = {}, {}
        else:
            node.sequence = []
        if event.anchor is not None:
            self._anchors[event.anchor] = None
        self._stack.append(_Frame(node, event.anchor, is_mapping))

    def _close(self, event: yaml.Event) -> None:
        frame = self._stack.pop()
        for source, mark in frame.merges:
            self._merge(frame.node, source, mark)
        if frame.anchor is not None:
            self._anchors[frame.anchor] = frame.node
        self._attach(frame.node, frame.node.mark)

    def _alias(self, event: yaml.AliasEvent) -> None:
        self._count(event)
        mark = _mark(event)
        self._aliases += 1
        if self._aliases > MAX_ALIASES:
            raise self._too_many_aliases(f"more than {MAX_ALIASES:,} aliases", mark)
        name = event.anchor or ""
        if name not in self._anchors:
            raise syntax(f"alias {shorten(name)} has no anchor before it", mark, path=self._path())
        node = self._anchors[name]
        if node is None:
            raise syntax(f"alias {shorten(name)} stands inside its own anchor", mark, path=self._path())
        self._check_depth(len(self._stack) + node.height, mark)
        self._attach(node, mark)

    def _attach(self, node: Node, mark: Mark) -> None:
        """Puts a finished node where the innermost open collection wants it; `mark` is where it is referred to."""
        if not self._stack:
            self._finish(node)
            return
        frame = self._stack[-1]
        parent = frame.node
        if parent.sequence is not None:
            parent.sequence.append(node)
        elif frame.merging:
            frame.merges.extend((source, mark) for source in self._sources(node, mark))
            frame.merging, frame.expects_key = False, True
            return
        elif frame.key is None:
            self._key(node.value, node.source, mark)
            return
        elif parent.mapping is not None:
            parent.mapping[frame.key] = node
            frame.key, frame.expects_key = None, True
        self._grow(parent, node, mark)

    def _grow(self, parent: Node, child: Node, mark: Mark) -> None:
        parent.weight += child.weight
        if child.height >= parent.height:
            parent.height = child.height + 1
        if parent.weight + self._spent > MAX_NODES:
            raise self._too_big(mark)

    def _key(self, value: scalars.Scalar, text: str | None, mark: Mark) -> None:
        """Takes a key; `text` is what was written, None for a collection."""
        frame = self._stack[-1]
        if not isinstance(value, str):
            shown = "a collection" if text is None else shorten(text)
            self._find(f"a key must be text, {shown} is not; quote it", mark, "KEY_NOT_A_STRING")
            value = text or ""
        frame.key, frame.expects_key = value, False
        frame.node.weight += 1 + len(value) // _CHARACTERS_PER_NODE
        self._place(frame, value, mark)

    def _merge_key(self, mark: Mark) -> None:
        frame = self._stack[-1]
        frame.merging, frame.expects_key = True, False
        self._place(frame, "<<", mark)

    def _place(self, frame: _Frame, key: str, mark: Mark) -> None:
        """Notes where a key stands; a second one of the same name is a finding."""
        keys = frame.node.keys
        if keys is not None and (first := keys.setdefault(key, mark)) is not mark:
            lines = f"first at line {first.line + 1}, again at line {mark.line + 1}"
            self._find(f"key {shorten(key)} is given twice: {lines}", mark, "DUPLICATE_KEY")

    def _sources(self, node: Node, mark: Mark) -> Sequence[Node]:
        nodes = node.sequence if node.sequence is not None else [node]
        if all(source.mapping is not None for source in nodes):
            return nodes
        self._find("<< merges mappings; this is none", mark, "BAD_VALUE")
        return ()

    def _merge(self, target: Node, source: Node, mark: Mark) -> None:
        if target.mapping is None or target.keys is None or source.mapping is None or source.keys is None:
            return
        self._spent += 1 + len(source.mapping)
        if self._spent > MAX_NODES:
            raise self._too_big(mark)
        for key, child in source.mapping.items():
            if key not in target.mapping:
                target.mapping[key] = child
                target.keys[key] = source.keys[key]
                target.weight += 1
                self._grow(target, child, mark)
        self._check_depth(len(self._stack) + target.height, mark)

    def _finish(self, root: Node) -> None:
        self._spent += root.weight
        if root.mapping is None and root.sequence is None and root.value is None:
            return
        self._documents.append(root)

    def _count(self, event: yaml.Event) -> None:
        self._nodes += 1
        if self._nodes > MAX_NODES:
            raise self._too_big(_mark(event))

    def _check_depth(self, depth: int, mark: Mark) -> None:
        if depth > MAX_DEPTH:
            raise syntax(f"nested deeper than {MAX_DEPTH} levels", mark, "MANIFEST_TOO_DEEP", self._path())

    def _too_big(self, mark: Mark) -> InvalidArgument:
        if self._aliases:
            message = f"aliases and merge keys expand it to more than {MAX_NODES:,} values"
            return self._too_many_aliases(message, mark)
        return syntax(f"more than {MAX_NODES:,} values", mark, "MANIFEST_TOO_LARGE")

    def _too_many_aliases(self, message: str, mark: Mark) -> InvalidArgument:
        return syntax(message, mark, "MANIFEST_TOO_MANY_ALIASES", self._path())

    def _path(self) -> str:
        path: Path = tuple(step for frame in self._stack if (step := frame.step()) is not None)
        return format_path(path, document=len(self._documents))

    def _find(self, message: str, mark: Mark, reason: str) -> None:
        if not self._findings.full:
            self._findings.add(fault(message, mark, reason, self._path()))


def _mark(event: yaml.Event) -> Mark:
    mark: Any = event.start_mark  # The stubs allow for None, which the parser never gives.
    return mark  # type: ignore[no-any-return]
