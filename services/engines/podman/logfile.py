"""Reads a container's log where podman's monitor writes it (driver k8s-file), through rotations and restarts.

A record is `TIME STREAM F|P TEXT` and a line end, with nanoseconds; P is a line that goes on in the next record. At the
size limit the monitor puts an empty file in the full one's place: who holds the full one still reads it to its end, and
`shelf` keeps it for who comes later.
"""

from __future__ import annotations

import os
import zlib
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from io import FileIO
from pathlib import Path

from services.engines.engine import LogSource
from services.engines.podman import shelf
from services.engines.podman.frames import Line, Position, decoded
from services.engines.podman.observe import seconds

_BLOCK_BYTES = 64 << 10
_MAX_RECORD_BYTES = 1 << 20
_STAMP_BYTES = 29
"""Up to the nanoseconds."""
_SOURCES = {b"stdout": LogSource.STDOUT, b"stderr": LogSource.STDERR}
_MAX_FILES = 4
_SURE_SECONDS = 1.0
"""Who looks this often takes no two rotations for one: filling a file of the usual 10 MB takes longer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One line of the log, and the place behind it."""

    line: Line
    behind: Position


class LogFile:
    """One reader of one log, from its oldest file on.

    It holds the files, successors too, until it has read them, and a block of what it read. Raises OSError from
    `__init__` when the log cannot be read.
    """

    def __init__(self, path: Path, *, clock: Callable[[], float], monitor: int = 0) -> None:
        """`clock` tells seconds, only differences count; `monitor` is the process that writes, 0 when none does."""
        self._path = path
        self.monitor = monitor
        self._clock = clock
        self._looked = clock()
        shelf.keep(path, monitor)
        self._apart: set[FileIO] = set()
        """The files before which one may have been missed."""
        first, *others = shelf.opened(path)
        self._files = deque([first])
        for each in others:
            self._hold(each, follows=False)
        self._rest = b""
        self._at = Position(generation=_generation(self._files[0].file))
        self._lost = False

    def close(self) -> None:
        """Give the descriptors back."""
        for held in self._files:
            held.file.close()

    def resume(self, start: Position) -> None:
        """Go to `start` if a file holds it; else the first line is the next that can be had, and says so."""
        for number, held in enumerate(self._files):
            if start.generation == _generation(held.file) and start.offset <= _size(held.file):
                self._go_to(number, start)
                return
        self._lost = True

    def go_to_tail(self, lines: int) -> None:
        """Go to where the last so many lines begin."""
        for number in reversed(range(len(self._files))):
            file = self._files[number].file
            offset, lines = _before_last(file, lines)
            if offset == _size(file) and number + 1 < len(self._files):
                self._go_to(number + 1, Position(generation=_generation(self._files[number + 1].file)))
                return
            if offset is not None:
                self._go_to(number, Position(generation=_generation(file), offset=offset))
                return

    def read(self) -> Sequence[Record]:
        """The next records, a block's worth; none when there is nothing new. One being written waits for its end."""
        while True:
            self._look()
            block = self._files[0].file.read(_BLOCK_BYTES)
            if not block and len(self._files) == 1:
                return ()
            if not block:
                self._turn()
            elif records := self._records(block):
                return records

    def _records(self, block: bytes) -> Sequence[Record]:
        if not self._at.generation:
            self._at = replace(self._at, generation=_generation(self._files[0].file))
        *whole, self._rest = (self._rest + block).split(b"\n")
        if len(self._rest) > _MAX_RECORD_BYTES:
            self._at = replace(self._at, offset=self._at.offset + len(self._rest))
            self._rest, self._lost = b"", True
        records = []
        for raw in whole:
            self._at = replace(self._at, offset=self._at.offset + len(raw) + 1)
            line = _parse(raw, after_loss=self._lost)
            if line is not None:
                self._lost = False
                self._at = self._at.after(line)
                records.append(Record(line=line, behind=self._at))
        return records

    def _look(self) -> None:
        """Get hold of the file that has taken the place of the newest one."""
        before, self._looked = self._looked, self._clock()
        often = self._looked - before <= _SURE_SECONDS
        try:
            if os.path.samestat(os.stat(self._path), os.fstat(self._files[-1].file.fileno())):  # noqa: PTH116
                return
            shelf.keep(self._path, self.monitor)
            *found, newest = shelf.opened(self._path)
        except OSError:  # the container was removed
            return
        for each in found:
            if each.number > self._files[-1].number:
                self._hold(each, follows=often)
            else:
                each.file.close()
        self._hold(newest, follows=often)

    def _hold(self, following: shelf.Opened, *, follows: bool) -> None:
        follows = follows or following.number == self._files[-1].number + 1
        if len(self._files) == _MAX_FILES:
            self._files.pop().file.close()
            follows = False
        self._files.append(following)
        if not follows:
            self._apart.add(following.file)

    def _turn(self) -> None:
        """Go on with the next file; nothing is written into a file once another has its place."""
        following = self._files[1].file
        self._lost = self._lost or bool(self._rest) or following in self._apart
        self._go_to(1, Position(generation=_generation(following)))

    def _go_to(self, number: int, start: Position) -> None:
        for _ in range(number):
            passed = self._files.popleft().file
            self._apart.discard(passed)
            passed.close()
        self._files[0].file.seek(start.offset)
        self._rest, self._at = b"", start


def _before_last(file: FileIO, lines: int) -> tuple[int | None, int]:
    """The offset where the last so many lines begin; where there are fewer, None and how many more there must be."""
    where = _size(file)
    while where > 0:
        block_start = max(where - _BLOCK_BYTES, 0)
        block = os.pread(file.fileno(), where - block_start, block_start)
        while (found := block.rfind(b"\n")) >= 0:
            if lines == 0:
                return block_start + found + 1, 0
            lines, block = lines - 1, block[:found]
        where = block_start
    return None, lines


def _generation(file: FileIO) -> int:
    """Tells a file from its successor: made of the time of its first record, as inodes are used again; 0 when empty."""
    stamp = os.pread(file.fileno(), _STAMP_BYTES, 0)
    return zlib.crc32(stamp) or 1 if len(stamp) == _STAMP_BYTES else 0


def _size(file: FileIO) -> int:
    return os.fstat(file.fileno()).st_size


def _parse(raw: bytes, *, after_loss: bool) -> Line | None:
    """A record without its line end; None when it is none, as after a machine's crash."""
    stamp, _, rest = raw.partition(b" ")
    stream, _, rest = rest.partition(b" ")
    tags, _, content = rest.partition(b" ")
    source = _SOURCES.get(stream)
    if source is None or tags[:1] not in (b"F", b"P"):
        return None
    text, lossy = decoded(content)
    return Line(
        source=source,
        time=seconds(stamp.decode("ascii", "replace")),
        text=text,
        partial=tags[:1] == b"P",
        lossy=lossy,
        after_loss=after_loss,
    )
