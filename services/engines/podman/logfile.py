"""Reads a container's log where podman's monitor writes it (driver k8s-file), through rotations and restarts.

A record is `TIME STREAM F|P TEXT` and a line end, with nanoseconds; P is a line that goes on in the next record. At the
size limit the monitor puts an empty file in the full one's place: who holds the full one still reads it to its end.
"""

from __future__ import annotations

import os
import zlib
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from io import FileIO
from pathlib import Path

from services.engines.engine import LogSource
from services.engines.podman.frames import Line, Position, decoded
from services.engines.podman.observe import seconds

CONFIGURATION: Mapping[str, object] = {"driver": "k8s-file", "size": 10 << 20}
"""How containers are made to log: into a file, whatever podman's default is, and never more than 10 MiB of it."""

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
    """One reader of one log: it holds the file, its successors until it comes to them, and a block of what it read.

    Raises OSError from `__init__` when the file cannot be read.
    """

    def __init__(self, path: Path, *, clock: Callable[[], float]) -> None:
        """`clock` tells seconds; only differences count."""
        self._path = path
        self._clock = clock
        self._looked = clock()
        self._files: deque[FileIO] = deque([FileIO(str(path))])
        self._unsure: deque[bool] = deque([False])
        """Of each file, whether another may have been between it and the one before."""
        self._rest = b""
        self._at = Position(generation=_generation(self._files[0]))
        self._lost = False

    def close(self) -> None:
        """Give the descriptors back."""
        for file in self._files:
            file.close()

    def resume(self, start: Position) -> None:
        """Go to `start` if this file holds it; else the first line is the next that can be had, and says so."""
        if start.generation == self._at.generation and start.offset <= _size(self._files[0]):
            self._go_to(start)
        else:
            self._lost = True

    def go_to_tail(self, lines: int) -> None:
        """Go to where the last so many lines begin."""
        where = _size(self._files[0])
        ends = 0
        while where > 0:
            block_start = max(where - _BLOCK_BYTES, 0)
            block = os.pread(self._files[0].fileno(), where - block_start, block_start)
            while (found := block.rfind(b"\n")) >= 0:
                if ends == lines:
                    self._go_to(replace(self._at, offset=block_start + found + 1))
                    return
                ends, block = ends + 1, block[:found]
            where = block_start

    def read(self) -> Sequence[Record]:
        """The next records, a block's worth; none when there is nothing new. One being written waits for its end."""
        while True:
            self._look()
            block = self._files[0].read(_BLOCK_BYTES)
            if not block and len(self._files) == 1:
                return ()
            if not block:
                self._turn()
            elif records := self._records(block):
                return records

    def _records(self, block: bytes) -> Sequence[Record]:
        if not self._at.generation:
            self._at = replace(self._at, generation=_generation(self._files[0]))
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
        try:
            if os.path.samestat(os.stat(self._path), os.fstat(self._files[-1].fileno())):  # noqa: PTH116
                return
            successor = FileIO(str(self._path))
        except OSError:  # the container was removed
            return
        if len(self._files) == _MAX_FILES:
            self._files.pop().close()
            self._unsure.pop()
            before = 0.0
        self._files.append(successor)
        self._unsure.append(self._looked - before > _SURE_SECONDS)

    def _turn(self) -> None:
        """Go on with the next file; nothing is written into a file once another has its place."""
        self._files.popleft().close()
        self._unsure.popleft()
        self._lost = self._lost or self._unsure[0] or bool(self._rest)
        self._go_to(Position(generation=_generation(self._files[0])))

    def _go_to(self, start: Position) -> None:
        self._files[0].seek(start.offset)
        self._rest, self._at = b"", start


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
