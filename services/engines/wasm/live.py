"""One function at work: its instances, who waits for one, and what is counted."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from services.engines.engine import Invocation, Invoked, LogLine
from services.engines.wasm import problems
from services.engines.wasm.frames import Frame
from services.engines.wasm.function import FunctionSpec
from services.engines.wasm.journal import Journal
from services.engines.wasm.pool import Pool
from services.engines.wasm.process import Problem, WorkerLost, WorkerProcess
from services.errors import BeemeshError, FieldViolation, InvalidArgument, ResourceExhausted

RETURNED_LINES = 1_000
"""Lines of one invocation that go with its answer; all of them are in the log."""
RETURNED_BYTES = 1 << 20

_ID_BYTES = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveLimits:
    """What callers may ask, and how long they wait."""

    event_bytes: int = 6 << 20
    """Of an event, as JSON."""
    result_bytes: int = 6 << 20
    queue: int = 256
    """Calls of one function that wait for an instance."""
    queue_seconds: float = 30.0
    """How long one waits."""
    load_seconds: float = 30.0
    """For a worker to load the code."""
    idle_seconds: float = 300.0
    """After which an instance that nobody calls is ended."""


@dataclass(slots=True, kw_only=True, eq=False)
class Instance:
    """One worker with the function loaded."""

    worker: WorkerProcess
    idle_since: float


@dataclass(slots=True, kw_only=True)
class Counts:
    """Since this process started."""

    invocations: int = 0
    errors: int = 0
    """Of them, those that did not end with a result."""
    cold_starts: int = 0
    timeouts: int = 0
    workers_lost: int = 0


@dataclass(slots=True)
class _Heard:
    """What one call wrote."""

    lines: list[LogLine] = field(default_factory=list)
    size: int = 0

    def add(self, line: LogLine) -> None:
        if len(self.lines) < RETURNED_LINES and self.size < RETURNED_BYTES:
            self.lines.append(line)
            self.size += len(line.text)


class LiveFunction:
    """Calls go to an idle instance, else to a new one, else they wait. `order` is what a worker loads."""

    def __init__(
        self,
        *,
        workload_id: str,
        spec: FunctionSpec,
        order: Mapping[str, object],
        pool: Pool,
        journal: Journal,
        limits: LiveLimits,
        clock: Callable[[], float],
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.spec = spec
        self.journal = journal
        self.counts = Counts()
        self._workload_id = workload_id
        self._order = order
        self._pool = pool
        self._limits = limits
        self._clock = clock
        self._monotonic = monotonic
        self._slots = asyncio.Semaphore(spec.concurrency)
        self._idle: list[Instance] = []
        self._busy: set[Instance] = set()
        self._waiting = 0
        self._accepts = True
        self._done = asyncio.Event()

    @property
    def pids(self) -> list[int]:
        """The process ids of its instances."""
        return [instance.worker.pid for instance in (*self._idle, *self._busy)]

    @property
    def oldest_idle(self) -> float | None:
        """Since when its instance that has waited longest waits."""
        return self._idle[0].idle_since if self._idle else None

    async def invoke(self, invocation: Invocation) -> Invoked:
        """Call the handler; raises the errors of FunctionService.InvokeFunction."""
        invocation_id = secrets.token_hex(_ID_BYTES)
        metadata = {"workload_id": self._workload_id, "invocation_id": invocation_id}
        self._check(invocation)
        self.counts.invocations += 1
        try:
            async with self._slot(metadata):
                return await self._call(invocation, invocation_id, metadata)
        except BaseException:
            self.counts.errors += 1
            raise

    async def warm(self) -> None:
        """Load the code once, so that what cannot be loaded is known; the instance stays for the first call."""
        async with self._slot({"workload_id": self._workload_id}):
            instance, _ = await self._instance({"workload_id": self._workload_id})
            self._put_back(instance)

    async def end_idle(self, since: float | None = None) -> int:
        """End the instances that have been idle since before `since` (None: all idle ones); how many."""
        ended = 0
        while self._idle and (since is None or self._idle[0].idle_since <= since):
            await self._end(self._idle.pop(0))
            ended += 1
        return ended

    async def evict_one(self) -> bool:
        """End the instance that has been idle longest."""
        if not self._idle:
            return False
        await self._end(self._idle.pop(0))
        return True

    def open(self) -> None:
        """Take calls."""
        self._accepts = True

    async def close(self, grace_seconds: float) -> None:
        """Take no more calls, let those under way end within `grace_seconds`, then end every instance."""
        self._accepts = False
        self.journal.wake()
        deadline = self._monotonic() + grace_seconds
        while self._busy and (left := deadline - self._monotonic()) > 0:
            self._done.clear()
            try:
                async with asyncio.timeout(left):
                    await self._done.wait()
            except TimeoutError:
                break
        for instance in (*self._idle, *self._busy):
            await self._end(instance)
        self._idle.clear()

    # One call

    def _check(self, invocation: Invocation) -> None:
        if not self._accepts:
            raise problems.stopped(self._workload_id)
        size, most = len(invocation.event), self._limits.event_bytes
        if size > most:
            message = f"the event has {size} bytes of JSON, more than the {most} that a function takes"
            raise InvalidArgument(
                message,
                reason="EVENT_TOO_LARGE",
                metadata={"workload_id": self._workload_id, "bytes": str(size), "limit": str(most)},
                violations=[FieldViolation(field_path="event", message=message)],
            )

    async def _call(self, invocation: Invocation, invocation_id: str, metadata: Mapping[str, str]) -> Invoked:
        seconds = min(self.spec.timeout, invocation.timeout or self.spec.timeout)
        instance, is_cold = await self._instance(metadata)
        heard = _Heard()
        facts = {"do": "invoke", "call": {"id": invocation_id, "deadline": self._clock() + seconds}}
        try:
            async with asyncio.timeout(seconds):
                answer = await instance.worker.ask(facts, invocation.event, lambda frame: self._hear(frame, heard))
        except TimeoutError:
            await self._end(instance)
            self.counts.timeouts += 1
            raise problems.timed_out(seconds, metadata) from None
        except WorkerLost:
            await self._end(instance)
            self.counts.workers_lost += 1
            raise problems.worker_lost(metadata) from None
        except Problem as problem:
            self._put_back(instance)
            raise problems.of_guest(problem.facts, metadata) from None
        except BaseException:  # nobody hears the answer any more
            await self._end(instance)
            raise
        self._put_back(instance)
        return Invoked(
            result=answer.body,
            logs=tuple(heard.lines),
            invocation_id=invocation_id,
            cold_start=is_cold or bool(answer.facts.get("cold")),
            duration=float(answer.facts["seconds"]),
        )

    def _hear(self, frame: Frame, heard: _Heard | None = None) -> None:
        line = self.journal.write(
            stream=str(frame.facts["stream"]),
            text=frame.body,
            time=float(frame.facts["time"]),
            partial=bool(frame.facts.get("partial")),
            invocation=str(frame.facts.get("id", "")),
        )
        if heard is not None:
            heard.add(self.journal.told(line))

    # Instances

    @asynccontextmanager
    async def _slot(self, metadata: Mapping[str, str]) -> AsyncIterator[None]:
        """One of `concurrency` places; raises ResourceExhausted (QUEUE_FULL, QUEUE_TIMEOUT)."""
        if self._slots.locked() and self._waiting >= self._limits.queue:
            raise self._no_room("QUEUE_FULL", f"{self._waiting} calls wait already", metadata)
        self._waiting += 1
        try:
            async with asyncio.timeout(self._limits.queue_seconds):
                await self._slots.acquire()
        except TimeoutError:
            why = f"no instance was free within {self._limits.queue_seconds:g}s"
            raise self._no_room("QUEUE_TIMEOUT", why, metadata) from None
        finally:
            self._waiting -= 1
        try:
            if not self._accepts:
                raise problems.stopped(self._workload_id)
            yield
        finally:
            self._slots.release()

    def _no_room(self, reason: str, why: str, metadata: Mapping[str, str]) -> BeemeshError:
        return ResourceExhausted(
            f"all {self.spec.concurrency} instances of function {self.spec.name} are busy: {why}",
            reason=reason,
            metadata=metadata,
            retry_after=1.0,
        )

    async def _instance(self, metadata: Mapping[str, str]) -> tuple[Instance, bool]:
        """An instance of our own until it is put back or ended, and whether it was made for this call."""
        while self._idle:
            instance = self._idle.pop()
            if instance.worker.is_alive:
                self._busy.add(instance)
                return instance, False
            await self._pool.end(instance.worker)
        try:
            worker = await self._pool.take()
        except WorkerLost:
            raise problems.worker_lost(metadata) from None
        instance = Instance(worker=worker, idle_since=self._monotonic())
        self._busy.add(instance)
        try:
            await self._load(instance, metadata)
        except BaseException:
            await self._end(instance)
            raise
        self.counts.cold_starts += 1
        self._pool.keep_spares(True)
        return instance, True

    async def _load(self, instance: Instance, metadata: Mapping[str, str]) -> None:
        seconds = self._limits.load_seconds
        try:
            async with asyncio.timeout(seconds):
                await instance.worker.ask({"do": "load", "order": self._order}, b"", self._hear)
        except TimeoutError:
            raise problems.load_timed_out(seconds, metadata) from None
        except WorkerLost:
            raise problems.worker_lost(metadata) from None
        except Problem as problem:
            raise problems.of_guest(problem.facts, metadata) from None

    def _put_back(self, instance: Instance) -> None:
        self._busy.discard(instance)
        instance.idle_since = self._monotonic()
        self._idle.append(instance)
        self._done.set()

    async def _end(self, instance: Instance) -> None:
        try:
            await self._pool.end(instance.worker)
        finally:
            self._busy.discard(instance)
            self._done.set()
