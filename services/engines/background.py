"""Tasks that help a block along and end with it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

Start = Callable[[Coroutine[Any, Any, None]], "asyncio.Task[None]"]


@asynccontextmanager
async def background() -> AsyncIterator[Start]:
    """Gives a function that starts a task; leaving the block cancels and awaits all that were started.

    Unlike in a TaskGroup the block's own error is raised as it is, also the one that closes a generator; the tasks
    report theirs themselves.
    """
    tasks: list[asyncio.Task[None]] = []

    def start(work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        tasks.append(asyncio.create_task(work))
        return tasks[-1]

    try:
        yield start
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
