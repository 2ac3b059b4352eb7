"""Has the backend read when something may have changed in it, and tells whoever waits for that."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress

from services.engines.streams import closed_after
from services.engines.unix_http import Refusal
from services.errors import BeemeshError
from services.telemetry import Log

log = Log(__name__)


class Hints:
    """Hints come from the backend's events, from `wake`, and from a clock; many make one reading. Times are in seconds.

    `poll` is the time between two readings without a hint, `settle` the wait after one, in which somebody else may
    have read, `reopen` the wait before a broken event stream is opened anew.
    """

    def __init__(
        self,
        *,
        events: Callable[[], AsyncIterator[object]],
        read: Callable[[], Awaitable[object]],
        poll: float,
        settle: float,
        reopen: float,
    ) -> None:
        self._events = events
        self._read = read
        self._poll = poll
        self._settle = settle
        self._reopen = reopen
        self._hint = asyncio.Event()
        self._listeners: set[asyncio.Event] = set()
        self.latest = 0.0
        """When the last reading of all began, on the event loop's clock; set by whoever takes in what was read."""

    def wake(self) -> None:
        """Something may have changed."""
        self._hint.set()
        for listener in self._listeners:
            listener.set()

    async def changes(self) -> AsyncIterator[None]:
        """Yield after each hint; hints that come while nobody waits are one."""
        listener = asyncio.Event()
        self._listeners.add(listener)
        try:
            while True:
                await listener.wait()
                listener.clear()
                yield
        finally:
            self._listeners.discard(listener)

    async def follow(self) -> None:
        """Read after each hint and now and then, unless somebody else did; ends with its task."""
        loop = asyncio.get_running_loop()
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(self._poll):
                    await self._hint.wait()
            hinted = loop.time()
            self._hint.clear()
            await asyncio.sleep(self._settle)
            if self.latest > hinted:
                continue
            try:
                await self._read()
            except BeemeshError as error:
                log.debug("reading_failed", why=error)
            except Exception as error:  # a defect must not end the supervision
                log.error("reading_failed", exc_info=error)

    async def listen(self) -> None:
        """Take each of the backend's events for a hint; ends with its task."""
        while True:
            try:
                self.wake()
                async with closed_after(self._events()) as events:
                    async for _ in events:
                        self.wake()
            except (Refusal, BeemeshError) as error:
                log.debug("event_stream_broke", why=error)
            except Exception as error:
                log.error("event_stream_broke", exc_info=error)
            await asyncio.sleep(self._reopen)
