"""The life of a service's process: uvloop, SIGTERM and SIGINT as a stop event, one line on a failed start."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import Awaitable, Callable
from typing import NoReturn

import uvloop

from services.errors import BeemeshError, Code

EX_CONFIG = 78
"""The exit code (of sysexits.h) for what only an operator can mend, settings or data: trying again cannot help."""

_MENDED_BY_HAND = (Code.INVALID_ARGUMENT, Code.FAILED_PRECONDITION, Code.DATA_LOSS)


def run(program: str, main: Callable[[asyncio.Event], Awaitable[None]]) -> None:
    """Run `main(stop)` to its end; a domain error at start is one line on stderr and exit code 1, or 78."""

    async def body() -> None:
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)
        await main(stop)

    try:
        uvloop.run(body())
    except BeemeshError as error:
        give_up(program, error)
    except BaseExceptionGroup as group:
        known, others = group.split(BeemeshError)
        if known is None or others is not None:
            raise
        give_up(program, _first(known))


def give_up(program: str, error: BeemeshError) -> NoReturn:
    """One line, and an exit code that says whether starting it again as it is could help."""
    sys.stderr.write(f"{program}: {error.message} ({error.reason})\n")
    sys.exit(EX_CONFIG if error.code in _MENDED_BY_HAND else 1)


def _first(group: BaseExceptionGroup[BeemeshError]) -> BeemeshError:
    error = group.exceptions[0]
    return _first(error) if isinstance(error, BaseExceptionGroup) else error
