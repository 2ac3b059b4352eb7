"""Turns a manifest's text into typed documents that know their lines, safely, for all four formats.

The parser and its schemas are loaded when first used: a service that only needs `quantities` stays small.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from services.manifests.documents import Document, Format, Manifest, canonical_json, digest, violation
    from services.manifests.events import MAX_BYTES
    from services.manifests.findings import MAX_FINDINGS
    from services.manifests.marks import Position
    from services.manifests.parsing import parse
    from services.manifests.paths import Path, format_path

__all__ = [
    "MAX_BYTES",
    "MAX_FINDINGS",
    "Document",
    "Format",
    "Manifest",
    "Path",
    "Position",
    "canonical_json",
    "digest",
    "format_path",
    "parse",
    "violation",
]

_HOMES = {
    "Document": "documents",
    "Format": "documents",
    "MAX_BYTES": "events",
    "MAX_FINDINGS": "findings",
    "Manifest": "documents",
    "Path": "paths",
    "Position": "marks",
    "canonical_json": "documents",
    "digest": "documents",
    "format_path": "paths",
    "parse": "parsing",
    "violation": "documents",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
