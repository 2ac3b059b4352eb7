"""What a manifest is once it is read: its documents, where each field stands in the text, and its digests."""

from __future__ import annotations

import enum
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from services.errors import FieldViolation
from services.manifests.lookup import strings_at, value_at
from services.manifests.marks import Position
from services.manifests.paths import Path, format_path
from services.manifests.tree import Node

ANNOTATION_PREFIX = "beemesh.io/"
DEFAULT_NAMESPACE = "default"

_TEMPLATE_ANNOTATIONS: Path = ("spec", "template", "metadata", "annotations")
_WORKLOADS = frozenset({"Pod", "Deployment", "VirtualMachine", "Function", "Compose"})


class Format(enum.Enum):
    """The languages a manifest may be written in."""

    KUBERNETES = "kubernetes"
    COMPOSE = "compose"
    VIRTUAL_MACHINE = "virtual_machine"
    FUNCTION = "function"


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """One document of a manifest; a Compose file is one, of kind `Compose`."""

    index: int
    """Among the manifest's documents that are not empty, from 0."""
    api_version: str
    """Empty for Compose."""
    kind: str
    namespace: str
    """`default` where the text gives none; empty for Compose."""
    name: str
    labels: Mapping[str, str]
    annotations: Mapping[str, str]
    """Of `metadata`; for Compose those of `x-beemesh`."""
    body: dict[str, Any]
    """The document as plain values. Except in Compose, a field that is null is absent, and so is what only a
    Kubernetes API server writes (`metadata.uid`, an empty `status`, …)."""
    root: Node = field(repr=False, compare=False)
    """The same as read, with positions."""

    def position(self, path: Path) -> Position:
        """Where the value at `path` starts; where there is none, its nearest ancestor that exists."""
        node = self.root
        for step in path:
            child = node.child(step)
            if child is None:
                break
            node = child
        return node.position

    def key_position(self, path: Path) -> Position:
        """Where the key of the field at `path` stands; the value's position for an item of a list."""
        node: Node | None = self.root
        for step in path[:-1]:
            node = node.child(step) if node else None
        found = node.key_position(path[-1]) if node and path else None
        return found or self.position(path)

    @property
    def is_workload(self) -> bool:
        """Whether it runs, rather than being configuration or storage of what runs."""
        return self.kind in _WORKLOADS

    @property
    def annotations_path(self) -> Path:
        """Where its annotations stand."""
        return ("x-beemesh", "annotations") if self.kind == "Compose" else ("metadata", "annotations")

    def annotation_source(self, key: str) -> Path | None:
        """The path of the annotation `key` that counts: that of the metadata, else that of a Deployment's template."""
        for path in (self.annotations_path, _TEMPLATE_ANNOTATIONS):
            if isinstance(value_at(self.body, (*path, key)), str):
                return (*path, key)
        return None

    def beemesh_annotations(self) -> dict[str, str]:
        """The `beemesh.io/*` annotations that count."""
        merged = {**strings_at(self.body, _TEMPLATE_ANNOTATIONS), **self.annotations}
        return {key: value for key, value in merged.items() if key.startswith(ANNOTATION_PREFIX)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """A manifest that was read and found valid."""

    text: str = field(repr=False)
    """As given."""
    format: Format
    documents: tuple[Document, ...]
    content_digest: str
    """`sha256:<hex>` of the text's UTF-8 bytes."""
    canonical_digest: str
    """`sha256:<hex>` of what it says: the same whatever the key order, quoting, comments and layout."""
    annotations: Mapping[str, str]
    """The `beemesh.io/*` annotations of all documents; they do not disagree."""

    @property
    def primary(self) -> Document:
        """The first document that runs."""
        return next(document for document in self.documents if document.is_workload)

    @property
    def kinds(self) -> tuple[str, ...]:
        """Of all documents, in order, each once."""
        return tuple(dict.fromkeys(document.kind for document in self.documents))

    @property
    def name(self) -> str:
        """Of the primary document; empty for a Compose file without `name:`."""
        return self.primary.name

    @property
    def namespace(self) -> str:
        """Of the primary document; empty for Compose."""
        return self.primary.namespace

    def annotation_source(self, key: str) -> tuple[Document, Path] | None:
        """The document and path that give the annotation `key`, or None."""
        for document in self.documents:
            if path := document.annotation_source(key):
                return document, path
        return None


def violation(document: Document, path: Path, message: str, reason: str, *, at_key: bool = False) -> FieldViolation:
    """A finding about the field at `path`, with the line and column of its value, or of its key if `at_key`."""
    position = document.key_position(path) if at_key else document.position(path)
    return FieldViolation(
        field_path=format_path(path, document=document.index),
        message=message,
        reason=reason,
        line=position.line,
        column=position.column,
    )


def canonical_json(value: object) -> bytes:
    """JSON with sorted keys and no spaces: equal values give equal bytes."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode("utf-8", "surrogatepass")


def digest(data: bytes) -> str:
    """`sha256:<hex>` of the bytes."""
    return f"sha256:{hashlib.sha256(data).hexdigest()}"
