"""Writes the path to a value of a manifest: `spec.containers[0].image`."""

from __future__ import annotations

import re

Path = tuple[str | int, ...]

_PLAIN = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*")
_MAX_KEY = 80


def format_path(path: Path, *, document: int = 0) -> str:
    """The path as text; a key that is not a plain word is written `annotations["beemesh.io/x"]`.

    `document` is the document's index in its manifest; those after the first get a prefix: `[1].spec`.
    """
    parts = [f"[{document}]"] if document else []
    for step in path:
        if isinstance(step, int):
            parts.append(f"[{step}]")
        elif _PLAIN.fullmatch(step) and len(step) <= _MAX_KEY:
            parts.append(f".{step}" if parts else step)
        else:
            short = step if len(step) <= _MAX_KEY else f"{step[:_MAX_KEY]}…"
            parts.append(f'["{printable(short)}"]')
    return "".join(parts)


def printable(text: str) -> str:
    """The text with escapes for what a terminal would act on instead of showing it."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
