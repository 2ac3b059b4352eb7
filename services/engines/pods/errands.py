"""Work about single containers, in tasks that end with the supervisor; what goes wrong in one concerns no other."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Self

from services.telemetry import Log

log = Log(__name__)


class Errands:
    """`async with` bounds them; leaving it waits for all, so who leaves has cancelled what does not end by itself."""

    def __init__(self, *, pause: float, wake: Callable[[], None]) -> None:
        """After a defect `wake` is called, `pause` seconds later, so that the container is looked at anew."""
        self._pause = pause
        self._wake = wake
        self._group = asyncio.TaskGroup()

    async def __aenter__(self) -> Self:
        await self._group.__aenter__()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._group.__aexit__(None, None, None)

    def start(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Not in the caller's context: the deadline of a request that read the backend must not bound it."""
        return self._group.create_task(work, context=contextvars.Context())

    def guard(self, container: str, work: Callable[[], Awaitable[None]]) -> asyncio.Task[None]:
        """The same, for what may fail in ways that nobody thought of."""
        return self.start(self._guarded(container, work))

    async def _guarded(self, container: str, work: Callable[[], Awaitable[None]]) -> None:
        try:
            await work()
        except Exception as error:  # what concerns one container must not end the supervision of all
            log.error("supervision_failed", container=container, exc_info=error)
            await asyncio.sleep(self._pause)
            self._wake()
