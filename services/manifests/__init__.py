"""Turns a manifest's text into typed documents that know their lines, safely, for all four formats."""

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
