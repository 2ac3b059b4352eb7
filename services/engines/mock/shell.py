"""The commands that exec finds inside the mock: a few that every machine has, acted out in this process."""

from __future__ import annotations

import asyncio
import re
import shlex
from collections.abc import AsyncIterator, Sequence

from services.engines.engine import ExecOrder, ExecOutput, ExecSession, ExitStatus, LogSource
from services.errors import FailedPrecondition

_PIECES = 16
"""Of input and of output that wait to be read."""

_SEPARATOR = re.compile(r"[;\n]")


class MockSession(ExecSession):
    """`echo`, `cat`, `true`, `false`, `sleep`, `stty size`, and `sh -c` with a sequence of these and `exit`."""

    def __init__(self, order: ExecOrder) -> None:
        self._order = order
        self._stdin: asyncio.Queue[bytes | None] = asyncio.Queue(_PIECES)
        self._is_closed = False
        self._size = (24, 80)
        self._resized = asyncio.Event()

    async def write(self, data: bytes) -> None:
        """Waits while the command does not read."""
        if not self._is_closed:
            await self._stdin.put(data)

    async def close_stdin(self) -> None:
        """No more comes."""
        if not self._is_closed:
            self._is_closed = True
            await self._stdin.put(None)

    async def resize(self, rows: int, columns: int) -> None:
        """Remembered for `stty size`."""
        self._size = (rows, columns)
        self._resized.set()

    async def output(self) -> AsyncIterator[ExecOutput | ExitStatus]:
        """What the command writes, and its exit."""
        code = 0
        for words in _statements(self._order.command):
            program, *arguments = words
            if program == "exit":
                code = int(arguments[0]) if arguments else code
                break
            code = 0
            async for item in self._run(program, arguments):
                if isinstance(item, int):
                    code = item
                else:
                    yield item
        yield ExitStatus(exit_code=code)

    async def _run(self, program: str, arguments: Sequence[str]) -> AsyncIterator[ExecOutput | int]:
        match program:
            case "echo":
                to_stderr = arguments[-1:] == [">&2"]
                words = arguments[:-1] if to_stderr else arguments
                yield self._wrote(" ".join(words).encode() + b"\n", to_stderr=to_stderr)
            case "cat":
                while data := await self._stdin.get():
                    yield self._wrote(data)
            case "stty":
                await self._resized.wait()
                yield self._wrote("{} {}\n".format(*self._size).encode())
            case "sleep":
                await asyncio.sleep(float(arguments[0]))
            case "true" | "false":
                yield int(program == "false")
            case _:
                raise command_not_found(program)

    def _wrote(self, data: bytes, *, to_stderr: bool = False) -> ExecOutput:
        if self._order.tty:
            return ExecOutput(LogSource.STDOUT, data.replace(b"\n", b"\r\n"))
        return ExecOutput(LogSource.STDERR if to_stderr else LogSource.STDOUT, data)


def command_not_found(program: str) -> FailedPrecondition:
    """The image does not have the program."""
    return FailedPrecondition(
        f"the component has no program {program[:80]!r}", reason="COMMAND_NOT_FOUND", metadata={"command": program[:80]}
    )


def _statements(command: Sequence[str]) -> list[list[str]]:
    if len(command) == 3 and command[:2] == ("sh", "-c"):
        return [words for text in _SEPARATOR.split(command[2]) if (words := shlex.split(text))]
    return [list(command)]
