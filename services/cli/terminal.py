"""The caller's terminal: raw while a command has it and as it was afterwards, its size, and what is typed into it."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import termios
import tty
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

_PIECE_BYTES = 32 << 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Terminal:
    """Standard input and output of this process, by their descriptors."""

    stdin: int = 0
    stdout: int = 1

    @property
    def is_there(self) -> bool:
        """Whether somebody types."""
        return os.isatty(self.stdin)

    @contextmanager
    def raw(self) -> Iterator[None]:
        """Each key is passed on as it is, Ctrl-C too; undone however the block ends."""
        before = termios.tcgetattr(self.stdin)
        tty.setraw(self.stdin, termios.TCSADRAIN)  # what was typed ahead is for the command
        try:
            yield
        finally:
            termios.tcsetattr(self.stdin, termios.TCSADRAIN, before)

    def size(self) -> tuple[int, int] | None:
        """Rows and columns; None where there is no terminal, or one that does not say."""
        for descriptor in (self.stdout, self.stdin):
            with suppress(OSError):
                found = os.get_terminal_size(descriptor)
                if found.lines and found.columns:
                    return found.lines, found.columns
        return None

    async def sizes(self) -> AsyncIterator[tuple[int, int]]:
        """The size now, and whenever it has changed."""
        changed, loop = asyncio.Event(), asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGWINCH, changed.set)
        try:
            while True:
                if (size := self.size()) is not None:
                    yield size
                await changed.wait()
                changed.clear()
        finally:
            loop.remove_signal_handler(signal.SIGWINCH)

    async def typed(self) -> AsyncIterator[bytes]:
        """What comes in, as fast as it is asked for, to its end; nothing of it is held back."""
        while True:
            await _readable(self.stdin)
            try:
                data = os.read(self.stdin, _PIECE_BYTES)
            except OSError:  # the terminal has hung up
                return
            if not data:
                return
            yield data

    def write(self, data: bytes, *, error: bool = False) -> None:
        """Show what a command wrote, at once."""
        stream = (sys.stderr if error else sys.stdout).buffer
        stream.write(data)
        stream.flush()


async def _readable(descriptor: int) -> None:
    """Return when a read does not block; of a file none ever does."""
    loop = asyncio.get_running_loop()
    ready = asyncio.Event()
    try:
        loop.add_reader(descriptor, ready.set)
    except PermissionError:  # epoll takes no regular files
        return
    try:
        await ready.wait()
    finally:
        loop.remove_reader(descriptor)
