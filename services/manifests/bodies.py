"""Turns a document's nodes into plain values: dicts, lists and scalars that share nothing."""

from __future__ import annotations

from typing import Any

from services.manifests import scalars
from services.manifests.tree import Node

_TEXT_MAPS = frozenset({"labels", "annotations", "matchLabels", "nodeSelector", "data", "stringData", "binaryData"})
"""Fields that map text to text: there null means empty text, elsewhere it means that the field is absent."""
_FILE_MODES = frozenset({"mode", "defaultMode"})
_SERVER_FIELDS = (
    "creationTimestamp",
    "deletionGracePeriodSeconds",
    "deletionTimestamp",
    "finalizers",
    "generation",
    "managedFields",
    "ownerReferences",
    "resourceVersion",
    "selfLink",
    "uid",
)


def verbatim(node: Node) -> Any:
    """The value as written, nulls included."""
    if node.mapping is not None:
        return {key: verbatim(child) for key, child in node.mapping.items()}
    if node.sequence is not None:
        return [verbatim(child) for child in node.sequence]
    return node.value


def kubernetes(node: Node) -> Any:
    """The value as Kubernetes' API server takes it: see `pruned`; what only the server writes is left out."""
    body = pruned(node)
    if isinstance(body, dict):
        metadata = body.get("metadata")
        if isinstance(metadata, dict):
            for name in _SERVER_FIELDS:
                metadata.pop(name, None)
        if body.get("status") == {}:
            del body["status"]
    return body


def pruned(node: Node, field: str = "") -> Any:
    """The value without fields that are null; `field` is the name of the field that holds it."""
    if node.mapping is not None:
        if field in _TEXT_MAPS:
            return {key: "" if _is_null(child) else pruned(child) for key, child in node.mapping.items()}
        return {key: pruned(child, key) for key, child in node.mapping.items() if not _is_null(child)}
    if node.sequence is not None:
        return [pruned(child) for child in node.sequence]
    if field in _FILE_MODES and node.source is not None and scalars.is_octal(node.source):
        # Kubernetes reads YAML 1.1, and its documentation writes file modes as 0644.
        return int(node.source, 8)
    return node.value


def _is_null(node: Node) -> bool:
    return node.value is None and node.mapping is None and node.sequence is None
