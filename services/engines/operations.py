"""At most one operation per workload; an operation outlives the caller who asked for it, and its failure is theirs."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import Enum
from typing import Any, Self, TypeVar

from services.errors import Aborted, Unavailable

T = TypeVar("T")

_MOVED_MAX = 1024
"""Workloads; more do not begin or end while one is being read."""


class Verb(Enum):
    """What an operation does."""

    DEPLOY = "deploy"
    REMOVE = "remove"
    STOP = "stop"
    START = "start"
    RESTART = "restart"
    FORGET = "forget"
    """Drops the record of a workload that the backend no longer has."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Operation:
    """One operation under way."""

    workload_id: str
    manifest_id: str
    verb: Verb
    digest: str
    """The canonical digest of a deploy: who asks for the same joins it."""
    outcome: asyncio.Future[Any]

    async def join(self) -> Any:
        """Its result or its error; the joiner's cancellation does not reach it."""
        return await asyncio.shield(self.outcome)

    async def settled(self) -> None:
        """Return when it has ended, however it ended."""
        await asyncio.wait([self.outcome])


class Operations:
    """The operations under way, by workload id; `async with` ends when they have, or after `drain_seconds`."""

    def __init__(self, *, drain_seconds: float) -> None:
        self._drain_seconds = drain_seconds
        self.serial = 0
        """Counts beginnings and ends."""
        self._moved: dict[str, int] = {}
        """By workload id: what `serial` was at its last beginning or end; those longest ago are forgotten."""
        self._running: dict[str, Operation] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._group = asyncio.TaskGroup()

    async def __aenter__(self) -> Self:
        await self._group.__aenter__()
        return self

    async def __aexit__(self, *exc: object) -> None:
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=self._drain_seconds)
        for task in self._tasks:
            task.cancel()
        await self._group.__aexit__(None, None, None)

    def current(self, workload_id: str) -> Operation | None:
        """The operation under way on this workload."""
        return self._running.get(workload_id)

    def moved_since(self, serial: int, workload_id: str) -> bool:
        """Whether an operation on this workload began or ended since `serial` was what it was."""
        return self._moved.get(workload_id, 0) > serial

    async def rest(self, timeout: float) -> None:
        """Return when those that are under way now have ended, or after so many seconds."""
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=timeout)

    def start(
        self, verb: Verb, workload_id: str, work: Callable[[], Awaitable[T]], *, manifest_id: str = "", digest: str = ""
    ) -> Operation:
        """Begin; the caller has made sure that none is under way (nothing may be awaited in between)."""
        if workload_id in self._running:
            raise RuntimeError(f"an operation on {workload_id} is under way")
        outcome: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        outcome.add_done_callback(_retrieve)
        operation = Operation(
            workload_id=workload_id, manifest_id=manifest_id, verb=verb, digest=digest, outcome=outcome
        )
        self._running[workload_id] = operation
        self._count(workload_id)
        # A context of its own: the deadline of the request that asked for it does not bound it.
        task = self._group.create_task(self._perform(operation, work), context=contextvars.Context())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return operation

    async def _perform(self, operation: Operation, work: Callable[[], Awaitable[Any]]) -> None:
        try:
            result = await work()
        except asyncio.CancelledError:
            operation.outcome.set_exception(_stopping(operation))
            raise
        except Exception as error:  # it belongs to those who wait, not to the group
            operation.outcome.set_exception(error)
        else:
            operation.outcome.set_result(result)
        finally:
            del self._running[operation.workload_id]
            self._count(operation.workload_id)

    def _count(self, workload_id: str) -> None:
        self.serial += 1
        self._moved.pop(workload_id, None)
        self._moved[workload_id] = self.serial
        if len(self._moved) > _MOVED_MAX:
            del self._moved[next(iter(self._moved))]


def _retrieve(outcome: asyncio.Future[Any]) -> None:
    """An error that nobody waits for any more is no error of the loop's."""
    if not outcome.cancelled():
        outcome.exception()


def in_progress(running: Operation) -> Aborted:
    """The error for who comes while something else is being done to the workload."""
    return Aborted(
        f"a {running.verb.value} of {running.workload_id} is under way; read it again, then retry",
        reason="OPERATION_IN_PROGRESS",
        metadata={"workload_id": running.workload_id, "operation": running.verb.value},
        retry_after=1.0,
    )


def _stopping(operation: Operation) -> Unavailable:
    return Unavailable(
        f"the engine stops in the middle of {operation.verb.value} {operation.workload_id}; ask again when it is back",
        reason="ENGINE_STOPPING",
        metadata={"workload_id": operation.workload_id},
    )
