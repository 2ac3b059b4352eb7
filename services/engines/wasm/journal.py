"""What a function wrote: its last lines, in memory and in a file that outlives this process."""

from __future__ import annotations

import asyncio
import json
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from services.engines.engine import LogLine, LogQuery, LogSource
from services.errors import FieldViolation, InvalidArgument

LINES_MAX = 5_000
BYTES_MAX = 2 << 20
"""Of text kept; older lines go."""

_BATCH = 500
_CURSOR_MAX = 18
_FILE_FACTOR = 3
"""The file is written anew when it is so many times as large as what counts of it."""
_SOURCES = {"stdout": LogSource.STDOUT, "stderr": LogSource.STDERR, "engine": LogSource.ENGINE}


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One line of output."""

    number: int
    """From 1, without gaps; the cursor."""
    time: float
    stream: str
    """stdout, stderr or engine."""
    text: str
    partial: bool = False
    lossy: bool = False
    invocation: str = ""
    """Empty: written while the code was loaded."""


class Journal:
    """The log of one function. Its file is read when it is first asked for, and need not survive the machine's end."""

    def __init__(self, path: Path, *, component_id: str) -> None:
        self._path = path
        self._component_id = component_id
        self._lines: deque[Line] = deque()
        self._size = 0
        self._file_size = 0
        self._last = 0
        self._loaded = False
        self._moved = asyncio.Event()
        self._closed = False

    def write(self, *, stream: str, text: bytes, time: float, partial: bool = False, invocation: str = "") -> Line:
        """Append a line."""
        self._load()
        decoded = text.decode(errors="replace")
        line = Line(
            number=self._last + 1,
            time=time,
            stream=stream,
            text=decoded,
            partial=partial,
            lossy="\ufffd" in decoded,
            invocation=invocation,
        )
        self._keep(line)
        self._append(line)
        self._moved.set()
        return line

    def close(self) -> None:
        """No more comes: who follows is told."""
        self._closed = True
        self._moved.set()

    def reopen(self) -> None:
        """More may come."""
        self._closed = False

    def told(self, line: Line, *, dropped: int = 0) -> LogLine:
        """A line as the contract has it."""
        return LogLine(
            component_id=self._component_id,
            source=_SOURCES.get(line.stream, LogSource.STDOUT),
            time=line.time,
            text=line.text,
            partial=line.partial,
            lossy=line.lossy,
            dropped_lines=dropped,
            cursor=str(line.number),
            invocation_id=line.invocation,
        )

    async def read(self, query: LogQuery, *, alive: Callable[[], bool]) -> AsyncIterator[Sequence[LogLine]]:
        """Batches of lines; with `follow` until the journal is closed or what writes it is no longer `alive`."""
        self._load()
        seen = _cursor(query.resume_cursor)
        batch = self._after(seen, query)
        if query.tail_lines is not None:
            batch = batch[len(batch) - min(len(batch), query.tail_lines) :]
        while True:
            seen = max(seen, self._last)
            for start in range(0, len(batch), _BATCH):
                yield batch[start : start + _BATCH]
            if not query.follow or self._closed or not alive():
                return
            await self._news(seen, alive)
            batch = self._after(seen, query)

    async def _news(self, seen: int, alive: Callable[[], bool]) -> None:
        while self._last <= seen and not self._closed and alive():
            self._moved.clear()
            await self._moved.wait()

    def wake(self) -> None:
        """Let who follows look again whether it is over."""
        self._moved.set()

    def _after(self, seen: int, query: LogQuery) -> list[LogLine]:
        since = query.since_time or 0.0
        first = self._lines[0].number if self._lines else self._last + 1
        dropped = max(0, first - seen - 1)
        told: list[LogLine] = []
        for line in self._lines:
            fits = line.number > seen and line.time >= since
            if fits and (not query.sources or _SOURCES.get(line.stream) in query.sources):
                told.append(self.told(line, dropped=0 if told else dropped))
        return told

    def _keep(self, line: Line) -> None:
        self._last = line.number
        self._lines.append(line)
        self._size += len(line.text) + 64
        while len(self._lines) > LINES_MAX or self._size > BYTES_MAX:
            self._size -= len(self._lines.popleft().text) + 64

    def _append(self, line: Line) -> None:
        data = _encoded(line)
        self._file_size += len(data)
        if self._file_size > _FILE_FACTOR * BYTES_MAX:
            data = b"".join(map(_encoded, self._lines))
            self._file_size = len(data)
            temporary = self._path.with_suffix(".tmp")
            temporary.write_bytes(data)
            temporary.replace(self._path)
            return
        with self._path.open("ab") as file:
            file.write(data)

    def _load(self) -> None:
        if self._loaded:
            return
        self._loaded = True
        try:
            data = self._path.read_bytes()
        except FileNotFoundError:
            return
        self._file_size = len(data)
        for raw in data.splitlines():
            try:
                self._keep(Line(**json.loads(raw)))
            except (ValueError, TypeError):  # the last line of a process that was killed while it wrote
                continue
        if data and not data.endswith(b"\n"):
            with self._path.open("ab") as file:
                file.write(b"\n")


def _cursor(text: str) -> int:
    """The number of the line that was seen last; raises InvalidArgument(BAD_CURSOR)."""
    if not text:
        return 0
    if not text.isdecimal() or len(text) > _CURSOR_MAX:
        message = f"{text[:40]!r} is no cursor of this engine"
        violation = FieldViolation(field_path="resume_cursor", message=message)
        raise InvalidArgument(f"resume_cursor {message}", reason="BAD_CURSOR", violations=[violation])
    return int(text)


def _encoded(line: Line) -> bytes:
    facts = {"number": line.number, "time": line.time, "stream": line.stream, "text": line.text}
    flags = {key: True for key in ("partial", "lossy") if getattr(line, key)}
    named = {"invocation": line.invocation} if line.invocation else {}
    return json.dumps({**facts, **flags, **named}, separators=(",", ":")).encode() + b"\n"
