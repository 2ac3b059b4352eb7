"""Streams that are followed until somebody has seen enough: one that breaks, as when the node restarts, is taken up."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TypeVar

from services.errors import Aborted, DeadlineExceeded, Unavailable

T = TypeVar("T")
Pause = Callable[[float], Awaitable[None]]

PATIENCE = 60
"""How often a broken stream is opened anew without a single message in between."""
_PAUSE_SECONDS = 1.0


async def lasting(opened: Callable[[], AsyncIterator[T]], *, pause: Pause = asyncio.sleep) -> AsyncIterator[T]:
    """The stream's messages, over its breaks; `opened` opens it where the last one ended.

    That it broke is said on standard error; what keeps breaking is raised in the end, and at once what will not heal.
    """
    failed = 0
    while True:
        try:
            async for message in opened():
                failed = 0
                yield message
            return
        except (Unavailable, DeadlineExceeded, Aborted) as error:
            failed += 1
            if failed > PATIENCE:
                raise
            if failed == 1:
                sys.stderr.write(f"waiting for the node: {error.reason}: {error.message}\n")
        await pause(_PAUSE_SECONDS)
