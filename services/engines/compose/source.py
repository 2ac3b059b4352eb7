"""Writes a Compose file for Compose: what we have read of it and nothing else, so that both read the same. Pure."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from services.engines.compose.fields import UNSUPPORTED_FIELD, Finding
from services.manifests import Document, Path
from services.manifests.scalars import is_octal
from services.manifests.tree import Node

_NOT_FOR_COMPOSE = ("version", "name")
"""Said otherwise, or without meaning."""
_FILE_MODE = "mode"
PROJECT_VARIABLE = "COMPOSE_PROJECT_NAME"
"""Compose itself sets it, for files that want to know."""

_STEERING = re.compile(
    r"(COMPOSE|DOCKER|BUILDKIT|BUILDX|LD|GO|PYTHON|OTEL|SSL)[A-Z0-9_]*|(?i:(http|https|no|all)_proxy)"
    r"|PATH|HOME|TMPDIR|USER|SHELL|IFS|ENV|BASH_ENV|XDG_[A-Z_]*|MALLOC_.*|GCONV_PATH|NLSPATH|LOCPATH|.*GLIBC.*"
)
"""Variables by which the program itself could be steered; they are never put into its environment."""


def written(document: Document, findings: Sequence[Finding]) -> bytes:
    """The document as JSON, which is YAML that no version of YAML reads differently.

    Fields that are said not to be honoured are left out: lenient validation has let them pass, or nothing has.
    """
    body = _plain(document.root)
    for finding in findings:
        if finding.reason == UNSUPPORTED_FIELD:
            _drop(body, finding.path)
    kept = {key: value for key, value in body.items() if key not in _NOT_FOR_COMPOSE and not key.startswith("x-")}
    return json.dumps(kept).encode()


def variables(env: Mapping[str, str]) -> dict[str, str]:
    """The request's variables that Compose may use."""
    return {name: value for name, value in env.items() if not _STEERING.fullmatch(name)}


def steering(env: Mapping[str, str], text: str) -> list[str]:
    """Variables of the request that the text refers to, and that Compose must not be given."""
    return [
        name
        for name in env
        if _STEERING.fullmatch(name) and re.search(rf"(?<!\$)\$(\{{{re.escape(name)}\b|{re.escape(name)}\b)", text)
    ]


def own_names(model: Mapping[str, Any], project: str) -> dict[str, Any]:
    """Compose's resolved model without the names that Compose has made itself, so that it reads like a file."""
    plain = copy.deepcopy(dict(model))
    for kind in ("networks", "volumes"):
        for key, item in (plain.get(kind) or {}).items():
            if isinstance(item, dict) and item.get("name") == f"{project}_{key}":
                del item["name"]
    return {key: value for key, value in plain.items() if key in _RESOLVED}


def renamed(model: Mapping[str, Any], old: str, new: str) -> dict[str, Any]:
    """Compose's resolved model of project `old`, as of project `new`."""
    named = {**model, "name": new}
    for kind in _NAMED:
        if kind in model:
            named[kind] = {key: _called(item, f"{old}_{key}", f"{new}_{key}") for key, item in model[kind].items()}
    return named


def _called(item: Any, old: str, new: str) -> Any:
    return {**item, "name": new} if isinstance(item, dict) and item.get("name") == old else item


_NAMED = ("networks", "volumes", "configs", "secrets")
_RESOLVED: Collection[str] = ("services", "networks", "volumes", "configs", "secrets", "models", "include")


def _plain(node: Node, field: str = "") -> Any:
    if node.mapping is not None:
        return {key: _plain(child, key) for key, child in node.mapping.items()}
    if node.sequence is not None:
        return [_plain(child) for child in node.sequence]
    if field == _FILE_MODE and node.source is not None and is_octal(node.source):
        return node.source  # as text Compose reads it in octal
    return node.value


def _drop(body: Any, path: Path) -> None:
    holder = body
    for step in path[:-1]:
        try:
            holder = holder[step]
        except (KeyError, IndexError, TypeError):  # dropped with what holds it
            return
    if isinstance(holder, dict):
        holder.pop(path[-1], None)
    elif isinstance(holder, list) and isinstance(path[-1], int) and path[-1] < len(holder):
        holder[path[-1]] = None
