"""`python -m services.engines.wasm.worker`: one instance of one function, told what to do on stdin.

Frames in: `load` (once), then `invoke` (the body is the event). Frames out: `log` at any time; `loaded`, `result` (the
body is the result) or `problem` as the answer to each. It ends with its stdin.
"""

from __future__ import annotations

import os
import resource
import sys
import time
from collections.abc import Mapping
from typing import Any, BinaryIO

import wasmtime

from services.engines.wasm import frames, machine
from services.engines.wasm.frames import Frame
from services.engines.wasm.sandbox import Guest, GuestProblem, Order, make_guest

LINE_MAX = 16 << 10
"""Bytes of a line; a longer one is told in parts."""

TEXT_MAX = 64 << 10
"""Characters of a problem's message and of its trace."""

_OPEN_FILES = 64


class Worker:
    """Answers frames, one after the other."""

    def __init__(self, engine: wasmtime.Engine, out: BinaryIO) -> None:
        self._engine = engine
        self._out = out
        self._order: Order | None = None
        self._guest: Guest | None = None
        self._invocation = ""
        self._rest = {"stdout": b"", "stderr": b""}
        """Of each stream, the line that has not ended yet."""

    def serve(self, source: BinaryIO) -> None:
        """Until `source` ends."""
        while (frame := frames.read_frame(source.read)) is not None:
            self._answer(frame)

    def _answer(self, frame: Frame) -> None:
        began = time.monotonic()
        try:
            if frame.facts["do"] == "load":
                self._order = Order(**frame.facts["order"])
                self._guest = make_guest(self._engine, self._order, self._write)
                self._end_lines()
                self._send({"is": "loaded", "seconds": time.monotonic() - began})
            else:
                self._invoke(frame.facts, frame.body)
        except GuestProblem as problem:
            if problem.is_broken:
                self._guest = None
            self._end_lines()
            self._send({"is": "problem", "seconds": time.monotonic() - began, **_clipped(problem.facts)})
        self._invocation = ""

    def _invoke(self, facts: Mapping[str, Any], event: bytes) -> None:
        if self._order is None:
            raise GuestProblem({"kind": "load", "message": "nothing was loaded"})
        self._invocation = facts["call"]["id"]
        is_cold = self._guest is None
        if self._guest is None:  # the one before is lost
            self._guest = make_guest(self._engine, self._order, self._write)
        began = time.monotonic()
        result = self._guest.invoke(event, facts["call"])
        seconds = time.monotonic() - began
        self._end_lines()
        if len(result) > self._order.result_max:
            message = f"the result is more than {self._order.result_max} bytes of JSON"
            raise GuestProblem({"kind": "size", "message": message})
        self._send({"is": "result", "seconds": seconds, "cold": is_cold}, result)

    def _write(self, stream: str, data: bytes) -> None:
        *lines, rest = (self._rest[stream] + data).split(b"\n")
        for line in lines:
            self._tell(stream, line)
        while len(rest) >= LINE_MAX:
            rest, told = rest[LINE_MAX:], rest[:LINE_MAX]
            self._tell(stream, told, partial=True)
        self._rest[stream] = rest

    def _end_lines(self) -> None:
        for stream, rest in self._rest.items():
            if rest:
                self._tell(stream, rest)
                self._rest[stream] = b""

    def _tell(self, stream: str, line: bytes, *, partial: bool = False) -> None:
        for start in range(0, max(1, len(line)), LINE_MAX):
            part = line[start : start + LINE_MAX]
            goes_on = partial or start + LINE_MAX < len(line)
            facts = {"is": "log", "stream": stream, "time": time.time(), "partial": goes_on, "id": self._invocation}
            self._send(facts, part)

    def _send(self, facts: Mapping[str, object], body: bytes = b"") -> None:
        self._out.write(frames.packed(facts, body))
        self._out.flush()


def _clipped(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Texts within bounds; of a trace its end counts, where the error is."""
    clipped = dict(facts)
    clipped["message"] = str(facts.get("message", ""))[:TEXT_MAX]
    clipped["trace"] = str(facts.get("trace", ""))[-TEXT_MAX:]
    clipped["type"] = str(facts.get("type", ""))[:256]
    return clipped


def _confine() -> None:
    """No core files, few open files: a guest cannot reach them, a defect of the machine should not either."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_NOFILE, (_OPEN_FILES, _OPEN_FILES))


def main() -> None:
    """Serve on stdin and stdout; what anything else prints goes nowhere."""
    _confine()
    out = os.fdopen(os.dup(1), "wb")
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    Worker(machine.make_engine(), out).serve(sys.stdin.buffer)
    os._exit(0)  # the machine's own threads may be in the middle of something that the interpreter's end would break


if __name__ == "__main__":
    main()
