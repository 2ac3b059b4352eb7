"""What engine and worker say to each other over a pipe: a head of facts and a body of bytes, both bounded."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

HEAD_MAX = 1 << 20
"""Bytes of a frame's facts: a load order carries the environment."""
BODY_MAX = 12 << 20
"""Bytes of a frame's body; events and results are held to less."""

SIZES = struct.Struct(">II")
"""The lengths of head and body, before them."""


@dataclass(frozen=True, slots=True)
class Frame:
    """One message."""

    facts: Mapping[str, Any]
    """JSON-shaped."""
    body: bytes = b""


class BadFrame(Exception):
    """The other side does not keep to the format; nothing more can be read from it."""


def packed(facts: Mapping[str, object], body: bytes = b"") -> bytes:
    """The bytes of a frame; raises BadFrame when it would be too large."""
    head = json.dumps(facts, separators=(",", ":")).encode()
    check_sizes(len(head), len(body))
    return SIZES.pack(len(head), len(body)) + head + body


def check_sizes(head: int, body: int) -> None:
    """Raise BadFrame for what no frame may be."""
    if head > HEAD_MAX or body > BODY_MAX:
        raise BadFrame(f"a frame of {head} and {body} bytes; at most {HEAD_MAX} and {BODY_MAX} are read")


def facts_of(head: bytes) -> Mapping[str, Any]:
    """The facts in a frame's head; raises BadFrame."""
    try:
        facts = json.loads(head)
    except ValueError as error:
        raise BadFrame(f"a frame's head is not JSON: {error}") from None
    if not isinstance(facts, dict):
        raise BadFrame("a frame's head is no mapping")
    return facts


def read_frame(read: Callable[[int], bytes]) -> Frame | None:
    """The next frame from a blocking `read(n)` that gives n bytes unless the stream ends; None at its end."""
    sizes = read(SIZES.size)
    if len(sizes) < SIZES.size:
        return None
    head_size, body_size = SIZES.unpack(sizes)
    check_sizes(head_size, body_size)
    head, body = read(head_size), read(body_size) if body_size else b""
    if len(head) < head_size or len(body) < body_size:
        return None
    return Frame(facts_of(head), body)
