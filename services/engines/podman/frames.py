"""Reads podman's log stream: frames of one line each, and positions in a log that outlive the stream. Pure.

podman's API tells times to the second (5.x: to the nanosecond), so a position is a second and how many lines of it were
seen: reading again `since` that second and skipping so many lines goes on exactly where it ended. Where the log is read
as a file, the file and an offset say the same at once.
"""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import astuple, dataclass, replace

from services.engines.engine import LogSource
from services.engines.podman.observe import seconds
from services.errors import Internal, InvalidArgument

_HEADER = 8
_MAX_FRAME_BYTES = 16 << 20
_SOURCES = {1: LogSource.STDOUT, 2: LogSource.STDERR}
_ID_LENGTH = 12
_MAX_CURSOR = 8192


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One line of a container."""

    source: LogSource
    time: float | None
    text: str
    partial: bool
    lossy: bool = False
    """Not all of it was UTF-8."""
    after_loss: bool = False
    """Lines before this one are, or may be, gone for good."""


@dataclass(frozen=True, slots=True)
class Position:
    """A place in one container's log: after the first `count` lines of this second."""

    second: int = 0
    count: int = 0
    generation: int = 0
    """Which file of the log; 0 when it is not read as a file."""
    offset: int = 0
    """In bytes."""

    def after(self, line: Line) -> Position:
        """The place behind `line`, which stands here."""
        second = self.second if line.time is None else math.floor(line.time)
        count = self.count + 1 if second == self.second else 1
        return replace(self, second=second, count=count)


class Frames:
    """Cuts a byte stream into lines; `feed` it chunks of any size."""

    def __init__(self) -> None:
        self._rest = bytearray()

    def feed(self, chunk: bytes) -> Iterator[Line]:
        """The lines that this chunk completes. Raises Internal when the stream is no log."""
        self._rest += chunk
        start = 0
        while len(self._rest) - start >= _HEADER:
            size = int.from_bytes(self._rest[start + 4 : start + _HEADER], "big")
            source = _SOURCES.get(self._rest[start])
            if source is None or size > _MAX_FRAME_BYTES:
                raise Internal("podman's log stream is not framed as expected", reason="BACKEND_ERROR")
            end = start + _HEADER + size
            if len(self._rest) < end:
                break
            yield _line(source, bytes(self._rest[start + _HEADER : end]))
            start = end
        del self._rest[:start]


def _line(source: LogSource, payload: bytes) -> Line:
    stamp, _, text = payload.partition(b" ")
    partial = not text.endswith(b"\n")
    said, lossy = decoded(text if partial else text[:-1])
    time = seconds(stamp.decode("ascii", "replace"))
    return Line(source=source, time=time, text=said, partial=partial, lossy=lossy)


def decoded(text: bytes) -> tuple[str, bool]:
    """The text, and whether something in it had to be replaced."""
    try:
        return text.decode(), False
    except UnicodeDecodeError:
        return text.decode("utf-8", "replace"), True


def write_cursor(positions: Mapping[str, Position]) -> str:
    """The positions in several containers' logs as one opaque word."""
    plain = {
        name[:_ID_LENGTH]: astuple(at) if at.generation else (at.second, at.count) for name, at in positions.items()
    }
    return base64.urlsafe_b64encode(json.dumps(plain, separators=(",", ":")).encode()).decode()


def read_cursor(cursor: str) -> dict[str, Position]:
    """What `write_cursor` wrote, by the first 12 digits of the id. Raises InvalidArgument."""
    try:
        if len(cursor) > _MAX_CURSOR:
            raise ValueError("too long")
        plain = json.loads(base64.urlsafe_b64decode(cursor.encode("ascii")))
        return {str(name): _position(*map(int, numbers)) for name, numbers in plain.items()}
    except (ValueError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise InvalidArgument(
            "resume_cursor is not a cursor of this engine; use the one of a line that was received", reason="BAD_CURSOR"
        ) from error


def _position(second: int, count: int, generation: int = 0, offset: int = 0) -> Position:
    if min(second, count, generation, offset) < 0:
        raise ValueError("negative")
    return Position(second, count, generation, offset)


def known_position(positions: Mapping[str, Position], container: str) -> Position | None:
    """Where a cursor stands in this container's log, or None when it has never seen it."""
    return positions.get(container[:_ID_LENGTH])
