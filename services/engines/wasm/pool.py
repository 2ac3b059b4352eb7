"""The worker processes of an engine: never more than a limit, and a few started ahead for the next cold start."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Self

from services.engines.wasm.process import WorkerLost, WorkerProcess
from services.errors import ResourceExhausted
from services.telemetry import Log

Spawn = Callable[[], Awaitable[WorkerProcess]]
Evict = Callable[[], Awaitable[bool]]
"""Ends an instance that nobody uses; False when there is none."""

log = Log(__name__)


class Pool:
    """Workers are taken and ended, never given back: one that has held a function's code holds no other's.

    `async with` ends what is left. `evict` makes room when all workers are taken.
    """

    def __init__(self, *, limit: int, spares: int, spawn: Spawn = WorkerProcess.spawn) -> None:
        self._limit = limit
        self._wanted_spares = spares
        self._spawn = spawn
        self._spares: list[WorkerProcess] = []
        self._taken: set[WorkerProcess] = set()
        self._starting = 0
        self._group = asyncio.TaskGroup()
        self._refill: asyncio.Task[None] | None = None
        self._closed = False
        self.evict: Evict | None = None

    async def __aenter__(self) -> Self:
        await self._group.__aenter__()
        return self

    async def __aexit__(self, *exc: object) -> None:
        self._closed = True
        if self._refill is not None:
            self._refill.cancel()
        await self._group.__aexit__(None, None, None)
        for worker in (*self._spares, *self._taken):
            await _ended(worker)

    @property
    def count(self) -> int:
        """Processes there are, or are being started."""
        return len(self._spares) + len(self._taken) + self._starting

    def spawned(self) -> list[int]:
        """The process ids of spare workers."""
        return [worker.pid for worker in self._spares]

    async def take(self) -> WorkerProcess:
        """A worker with nothing loaded; raises ResourceExhausted(WORKERS_BUSY), WorkerLost."""
        while self._spares:
            worker = self._spares.pop()
            self._taken.add(worker)
            if worker.is_alive:
                return worker
            await self.end(worker)
        while self.count >= self._limit:
            if self.evict is None or not await self.evict():
                raise ResourceExhausted(
                    f"all {self._limit} worker processes of this engine are busy",
                    reason="WORKERS_BUSY",
                    retry_after=1.0,
                )
        worker = await self._start()
        self._taken.add(worker)
        return worker

    async def end(self, worker: WorkerProcess) -> None:
        """Kill it; its place is free afterwards."""
        try:
            await asyncio.shield(_ended(worker))
        finally:
            self._taken.discard(worker)

    def keep_spares(self, wanted: bool) -> None:
        """Have spares ready from now on, or none."""
        if self._closed or self._refill is not None:
            return
        if wanted and len(self._spares) >= self._wanted_spares:
            return
        if not wanted and not self._spares:
            return
        self._refill = self._group.create_task(self._settle(wanted))

    async def _settle(self, wanted: bool) -> None:
        try:
            if not wanted:
                while self._spares:
                    worker = self._spares.pop()
                    self._taken.add(worker)
                    await self.end(worker)
            while wanted and len(self._spares) < self._wanted_spares and self.count < self._limit:
                self._spares.append(await self._start())
        except WorkerLost as error:
            log.warning("no_spare_worker", why=error)
        finally:
            self._refill = None

    async def _start(self) -> WorkerProcess:
        self._starting += 1
        try:
            return await self._spawn()
        finally:
            self._starting -= 1


async def _ended(worker: WorkerProcess) -> None:
    with suppress(TimeoutError):
        await worker.end()
