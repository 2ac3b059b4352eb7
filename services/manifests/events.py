"""Turns text into the YAML parser's events, once it is known to be text that the parser can bear."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any, Final

import yaml

from services.errors import FieldViolation
from services.manifests.findings import refusal
from services.manifests.marks import START, Place, syntax

MAX_BYTES = 1 << 20
"""Of the manifest's UTF-8 text."""
_MAX_TAG_DIRECTIVES = 16
"""The parser compares each with all others."""

_LOADER: Final = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_UNREADABLE = re.compile("[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_SURROGATE_PAIR = re.compile(r"(?<!\\)((?:\\\\)*)\\u([dD][89abAB][0-9a-fA-F]{2})\\u([dD][c-fC-F][0-9a-fA-F]{2})")
_TAG_DIRECTIVE = re.compile(r"^%TAG", re.MULTILINE)


def events(text: str) -> Iterator[yaml.Event]:
    """The parser's events, one at a time: whoever stops asking stops the parser, which alone keeps it fast.

    Raises InvalidArgument: MANIFEST_TOO_LARGE before anything is parsed, else MANIFEST_SYNTAX with line and column.
    """
    _check_text(text)
    loader = _LOADER(_join_surrogates(text))
    try:
        while (event := loader.get_event()) is not None:
            yield event
    except yaml.MarkedYAMLError as error:
        mark: Any = error.problem_mark or error.context_mark
        raise syntax(_sentence(error), mark or START) from None
    except yaml.YAMLError as error:
        raise syntax(f"cannot be read as YAML: {getattr(error, 'reason', error)}", START) from None
    finally:
        loader.dispose()


def _check_text(text: str) -> None:
    size = len(text) if len(text) > MAX_BYTES else len(text.encode("utf-8", "surrogatepass"))
    if size > MAX_BYTES:
        message = f"the manifest has {size:,} bytes or more, the limit is {MAX_BYTES:,} bytes"
        raise refusal(FieldViolation(field_path="", message=message, reason="MANIFEST_TOO_LARGE"))
    if bad := _UNREADABLE.search(text):
        code = ord(bad.group())
        kind = "a lone surrogate" if 0xD800 <= code <= 0xDFFF else "a control character or none at all"
        line = text.count("\n", 0, bad.start())
        column = bad.start() - text.rfind("\n", 0, bad.start()) - 1
        raise syntax(f"U+{code:04X} is {kind}; a manifest is plain UTF-8 text", Place(line, column))
    directives = list(_TAG_DIRECTIVE.finditer(text))
    if len(directives) > _MAX_TAG_DIRECTIVES:
        line = text.count("\n", 0, directives[_MAX_TAG_DIRECTIVES].start())
        raise syntax(f"more than {_MAX_TAG_DIRECTIVES} %TAG directives", Place(line, 0))


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


def _sentence(error: yaml.MarkedYAMLError) -> str:
    context = f"{error.context}: " if error.context else ""
    return f"cannot be read as YAML: {context}{error.problem or 'syntax error'}"
