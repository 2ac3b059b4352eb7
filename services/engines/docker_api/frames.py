"""Reads docker's streams: frames of stdout and stderr, lines with their times, and places in logs that last. Pure.

Docker tells times to the nanosecond, so a place in a log is a time and how many lines of that very time were seen:
reading again `since` then, and skipping so many, goes on exactly where it ended.
"""

from __future__ import annotations

import base64
import json
import re
from calendar import timegm
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from time import strptime

from services.engines.engine import ExecOutput, LogSource
from services.errors import Internal, InvalidArgument

_HEADER = 8
_SOURCES = {0: LogSource.STDOUT, 1: LogSource.STDOUT, 2: LogSource.STDERR}
_MAX_LINE = 1 << 20
_ID_LENGTH = 12
_MAX_CURSOR = 8192
_STAMP = re.compile(rb"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.(\d{1,9}))?Z")
_NANO = 10**9


class Demultiplexer:
    """Cuts a stream into pieces of stdout and stderr, as they come; a frame is never held back for its rest."""

    def __init__(self, *, tty: bool) -> None:
        """`tty`: the stream has no frames."""
        self._tty = tty
        self._head = b""
        self._left = 0
        self._source = LogSource.STDOUT
        self.is_whole = True
        """Whether the last piece ended its frame."""

    def feed(self, data: bytes) -> Iterator[ExecOutput]:
        """What these bytes hold. Raises Internal when they are no frames."""
        if self._tty:
            yield ExecOutput(LogSource.STDOUT, data)
            return
        while data:
            if not self._left:
                data = self._take_head(data)
                continue
            piece, data = data[: self._left], data[self._left :]
            self._left -= len(piece)
            self.is_whole = not self._left
            yield ExecOutput(self._source, piece)

    def _take_head(self, data: bytes) -> bytes:
        missing = _HEADER - len(self._head)
        self._head, rest = self._head + data[:missing], data[missing:]
        if len(self._head) == _HEADER:
            source = _SOURCES.get(self._head[0])
            if source is None:
                raise Internal("docker's stream is not framed as expected", reason="BACKEND_ERROR")
            self._source, self._left, self._head = source, int.from_bytes(self._head[4:], "big"), b""
        return rest


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One line of a container."""

    source: LogSource
    nanoseconds: int
    """Since 1970; 0 where docker has told no time."""
    text: str
    partial: bool
    lossy: bool
    """Not all of it was UTF-8."""


class Lines:
    """Cuts a log stream into lines; `feed` it chunks of any size."""

    def __init__(self, *, tty: bool) -> None:
        self._tty = tty
        self._pieces = Demultiplexer(tty=tty)
        self._rest = bytearray()

    def feed(self, chunk: bytes) -> Iterator[Line]:
        """The lines that this chunk completes. Raises Internal when the stream is no log."""
        for piece in self._pieces.feed(chunk):
            self._rest += piece.data
            if self._tty:
                *whole, rest = bytes(self._rest).split(b"\n")
                self._rest[:] = rest
                for line in whole:
                    yield _line(piece.source, line.removesuffix(b"\r") + b"\n")
            elif self._pieces.is_whole or len(self._rest) > _MAX_LINE:
                yield _line(piece.source, bytes(self._rest))
                self._rest.clear()


def _line(source: LogSource, payload: bytes) -> Line:
    stamp, space, text = payload.partition(b" ")
    time = nanoseconds(stamp) if space else 0
    said = text if time else payload
    partial = not said.endswith(b"\n")
    plain, lossy = decoded(said if partial else said[:-1])
    return Line(source=source, nanoseconds=time, text=plain, partial=partial, lossy=lossy)


def decoded(text: bytes) -> tuple[str, bool]:
    """The text, and whether something in it had to be replaced."""
    try:
        return text.decode(), False
    except UnicodeDecodeError:
        return text.decode("utf-8", "replace"), True


def nanoseconds(stamp: bytes) -> int:
    """An RFC 3339 time in UTC as nanoseconds since 1970; 0 when it is none."""
    match = _STAMP.fullmatch(stamp)
    if match is None:
        return 0
    whole = timegm(strptime(match[1].decode(), "%Y-%m-%dT%H:%M:%S"))
    return whole * _NANO + int((match[2] or b"0").ljust(9, b"0"))


@dataclass(frozen=True, slots=True)
class Position:
    """A place in one container's log: after the first `count` lines of this time."""

    nanoseconds: int = 0
    count: int = 0

    def after(self, line: Line) -> Position:
        """The place behind `line`, which stands here."""
        same = line.nanoseconds in (0, self.nanoseconds)
        return Position(self.nanoseconds, self.count + 1) if same else Position(line.nanoseconds, 1)

    @property
    def since(self) -> str:
        """As docker's `since`; lines of this very time are included."""
        return f"{self.nanoseconds // _NANO}.{self.nanoseconds % _NANO:09d}"


def write_cursor(positions: Mapping[str, Position]) -> str:
    """The positions in several containers' logs as one opaque word."""
    plain = {name[:_ID_LENGTH]: [at.nanoseconds, at.count] for name, at in positions.items()}
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


def _position(time: int, count: int) -> Position:
    if min(time, count) < 0:
        raise ValueError("negative")
    return Position(time, count)


def known_position(positions: Mapping[str, Position], container: str) -> Position | None:
    """Where a cursor stands in this container's log, or None when it has never seen it."""
    return positions.get(container[:_ID_LENGTH])
