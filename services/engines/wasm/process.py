"""One worker process, seen from the engine: spawned, told what to do over its pipes, killed."""

from __future__ import annotations

import asyncio
import itertools
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Self

from services.bound import bound
from services.engines.wasm import frames
from services.engines.wasm.frames import BadFrame, Frame

MODULE = "services.engines.wasm.worker"

_END_SECONDS = 5.0
_LINES_AT_ONCE = 32

Listener = Callable[[Frame], None]
"""Hears each `log` frame."""


class WorkerLost(Exception):
    """The process has ended, or makes no sense: nothing more comes from it."""


class Problem(Exception):
    """What a worker told of a guest's failure."""

    def __init__(self, facts: Mapping[str, Any]) -> None:
        super().__init__(str(facts.get("message", "")))
        self.facts = facts


@dataclass(slots=True, eq=False)
class WorkerProcess:
    """Does one thing at a time."""

    process: asyncio.subprocess.Process

    @classmethod
    async def spawn(cls) -> Self:
        """A worker with nothing loaded; it ends with this process, however that ends. Raises WorkerLost."""
        command = bound(sys.executable, "-P", "-m", MODULE)
        try:
            process = await asyncio.create_subprocess_exec(
                *command,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                env={},
                start_new_session=True,  # a Ctrl-C meant for the engine is not the worker's
            )
        except OSError as error:
            raise WorkerLost(f"no worker process can be started: {error}") from error
        return cls(process)

    @property
    def pid(self) -> int:
        """Its process id."""
        return self.process.pid

    @property
    def is_alive(self) -> bool:
        """Whether it may still answer."""
        return self.process.returncode is None and not (self.process.stdout and self.process.stdout.at_eof())

    async def ask(self, facts: Mapping[str, object], body: bytes, listener: Listener) -> Frame:
        """Its answer; raises Problem, WorkerLost. Cut in between, the worker is of no more use: kill it."""
        reader, writer = self.process.stdout, self.process.stdin
        assert reader is not None and writer is not None  # noqa: PT018, S101 - they were asked for
        try:
            writer.write(frames.packed(facts, body))
            await writer.drain()
            for number in itertools.count(1):
                frame = await _read(reader)
                if frame.facts.get("is") != "log":
                    break
                listener(frame)
                if number % _LINES_AT_ONCE == 0:  # what is buffered is read without a pause: others have a turn
                    await asyncio.sleep(0)
        except (OSError, asyncio.IncompleteReadError, BadFrame) as error:
            raise WorkerLost(str(error)) from error
        if frame.facts.get("is") == "problem":
            raise Problem(frame.facts)
        return frame

    async def end(self) -> None:
        """Kill it and wait until it is gone; a repeat is harmless."""
        if self.process.returncode is None:
            with suppress(ProcessLookupError):
                self.process.kill()
        if self.process.stdin is not None:
            self.process.stdin.close()
        async with asyncio.timeout(_END_SECONDS):
            if self.process.stdout is not None:  # asyncio waits for the end of what was written, too
                with suppress(RuntimeError):  # whoever waits for its answer reads to the end
                    await self.process.stdout.read()
            await self.process.wait()


async def _read(reader: asyncio.StreamReader) -> Frame:
    head_size, body_size = frames.SIZES.unpack(await reader.readexactly(frames.SIZES.size))
    frames.check_sizes(head_size, body_size)
    head = await reader.readexactly(head_size)
    return Frame(frames.facts_of(head), await reader.readexactly(body_size) if body_size else b"")
