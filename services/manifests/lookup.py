"""Looks into plain values that may not have the shape they should: what has the wrong type is passed over."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from services.manifests.paths import Path


def mapping_at(body: object, path: Path) -> Mapping[str, Any]:
    """The mapping at `path`, or an empty one where there is none."""
    value = value_at(body, path)
    return value if isinstance(value, dict) else {}


def value_at(body: object, path: Path) -> Any:
    """The value at `path`, or None."""
    value: Any = body
    for step in path:
        if isinstance(value, dict):
            value = value.get(step)
        elif isinstance(value, list) and isinstance(step, int) and 0 <= step < len(value):
            value = value[step]
        else:
            return None
    return value


def mappings_in(body: object, path: Path) -> Iterator[tuple[Path, Mapping[str, Any]]]:
    """Each mapping in the list at `path`, with its path."""
    items = value_at(body, path)
    for index, item in enumerate(items if isinstance(items, list) else ()):
        if isinstance(item, dict):
            yield (*path, index), item


def text_at(body: object, path: Path) -> str | None:
    """The text at `path`, or None where there is none."""
    value = value_at(body, path)
    return value if isinstance(value, str) else None


def strings_at(body: object, path: Path) -> dict[str, str]:
    """The entries of the mapping at `path` that are text."""
    return {key: value for key, value in mapping_at(body, path).items() if isinstance(value, str)}
