"""Workers that are no processes: they answer as they are told, when they are told."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any, cast

from services.engines.wasm.frames import Frame
from services.engines.wasm.process import Listener, Problem, WorkerLost, WorkerProcess


class FakeWorker:
    """Answers each event with itself, at once, unless its house says otherwise."""

    def __init__(self, house: FakeHouse, pid: int) -> None:
        self.house = house
        self.pid = pid
        self.is_alive = True
        self.loaded: Mapping[str, object] | None = None
        self.lost = asyncio.Event()

    async def ask(self, facts: Mapping[str, Any], body: bytes, listener: Listener) -> Frame:
        if facts["do"] == "load":
            self.loaded = facts["order"]
            if self.house.bad_load:
                raise Problem(self.house.bad_load)
            return Frame({"is": "loaded"})
        self.house.calls.append(body)
        waiting = [asyncio.ensure_future(self.house.gate.wait()), asyncio.ensure_future(self.lost.wait())]
        await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        for task in waiting:
            task.cancel()
        if self.lost.is_set():
            raise WorkerLost("killed")
        listener(Frame({"is": "log", "stream": "stdout", "time": 1.0, "id": facts["call"]["id"]}, b"said"))
        return Frame({"is": "result", "seconds": 0.001, "cold": False}, body)

    async def end(self) -> None:
        self.is_alive = False
        self.lost.set()


class FakeHouse:
    """Makes workers and remembers them; `gate` holds calls back while it is closed."""

    def __init__(self) -> None:
        self.workers: list[FakeWorker] = []
        self.calls: list[bytes] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.bad_load: Mapping[str, object] | None = None

    async def spawn(self) -> WorkerProcess:
        """One more."""
        await asyncio.sleep(0)
        self.workers.append(FakeWorker(self, pid=len(self.workers) + 1))
        return cast(WorkerProcess, self.workers[-1])

    @property
    def alive(self) -> list[int]:
        """The numbers of those that were not ended."""
        return [worker.pid for worker in self.workers if worker.is_alive]


async def settled() -> None:
    """Let every task that can go on do so."""
    for _ in range(20):
        await asyncio.sleep(0)
