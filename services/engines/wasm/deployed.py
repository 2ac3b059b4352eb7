"""One function that is there: what is kept of it, its log, its instances once it is called, and its HTTP trigger."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass, replace
from typing import Any

from services.engines.engine import Component, Invocation, Invoked, Observation, PortMapping, WorkloadState
from services.engines.wasm import problems
from services.engines.wasm.http_trigger import HOST, HttpTrigger
from services.engines.wasm.journal import Journal
from services.engines.wasm.live import LiveFunction, LiveLimits
from services.engines.wasm.pool import Pool
from services.engines.wasm.runtimes import Runtimes
from services.engines.wasm.store import CODE, LOG, WASM, FunctionStore, Kept
from services.errors import BeemeshError, FailedPrecondition
from services.telemetry import Log

HTTP_PORT = 80
"""What the HTTP trigger is called as a port of the workload."""

log = Log(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Means:
    """What all functions of an engine share."""

    store: FunctionStore
    write: Callable[[Kept], Awaitable[None]]
    """Changes what is kept of a function, durably."""
    runtimes: Runtimes
    pool: Pool
    limits: LiveLimits
    tell: Callable[[str, str], None]
    """Hears a workload's id and how far its start is."""
    clock: Callable[[], float]
    monotonic: Callable[[], float]


class Deployed:
    """Made from what is kept; nothing runs before the first call."""

    def __init__(self, kept: Kept, means: Means) -> None:
        self.kept = kept
        self.journal = Journal(means.store.place(kept.workload_id) / LOG, component_id=kept.component_id)
        self.live: LiveFunction | None = None
        """Once it was first called in this process."""
        self._means = means
        self._trigger: HttpTrigger | None = None
        self._trouble = ""
        """Why its HTTP trigger does not answer."""
        self._starting = asyncio.Lock()

    async def invoke(self, invocation: Invocation) -> Invoked:
        """Call the handler."""
        if self.kept.stopped:
            raise problems.stopped(self.kept.workload_id)
        return await (await self._living()).invoke(invocation)

    async def warm(self) -> None:
        """Load the code once; raises what is wrong with it."""
        await (await self._living()).warm()

    async def keep(self, kept: Kept) -> None:
        """Change what is kept of it."""
        await self._means.write(kept)
        self.kept = kept

    async def open(self) -> None:
        """Take calls, by HTTP too; a port that cannot be had is told, not raised."""
        self.journal.reopen()
        if self.live is not None:
            self.live.open()
        try:
            await self.answer_http()
        except BeemeshError as error:
            self._trouble = error.message
            log.warning("trigger_closed", workload_id=self.kept.workload_id, why=error)

    async def answer_http(self) -> None:
        """Open its trigger, where the manifest asks for one; raises FailedPrecondition(PORT_IN_USE)."""
        spec = self.kept.spec
        if spec.http_path is None or self.kept.stopped or self._trigger is not None:
            return
        trigger = HttpTrigger(path=spec.http_path, invoke=self.invoke, event_max=self._means.limits.event_bytes)
        port = await self._listen(trigger, spec.http_port or self.kept.port, may_move=not spec.http_port)
        self._trigger, self._trouble = trigger, ""
        if port != self.kept.port:
            await self.keep(replace(self.kept, port=port))

    async def close(self, grace_seconds: float) -> None:
        """Take no more calls; those under way may end within the grace period."""
        trigger, self._trigger = self._trigger, None
        if trigger is not None:
            trigger.stop_listening()
        if self.live is not None:
            await self.live.close(grace_seconds)
        if trigger is not None:
            await trigger.close()
        self.journal.close()

    def observation(self) -> Observation:
        """As it is now."""
        kept = self.kept
        ports: tuple[PortMapping, ...] = ()
        if self._trigger is not None:
            ports = (PortMapping(container_port=HTTP_PORT, host_port=kept.port, host_ip=HOST),)
        details: dict[str, object] = {"runtime": kept.spec.runtime, "handler": kept.spec.handler}
        if self.live is not None:
            pids = self.live.pids
            details |= {**asdict(self.live.counts), "instances": len(pids), "worker_pids": pids}
        return Observation(
            ownership=kept.ownership,
            components=(self.component(),),
            ports=ports,
            create_time=kept.create_time,
            stopped_on_request=kept.stopped,
            details=details,
        )

    def component(self) -> Component:
        """A function has one, whatever its instances."""
        kept = self.kept
        trouble = "" if kept.stopped else self._trouble
        running = WorkloadState.DEGRADED if trouble else WorkloadState.RUNNING
        return Component(
            component_id=kept.component_id,
            display_name=kept.spec.name,
            image=kept.spec.runtime,
            state=WorkloadState.STOPPED if kept.stopped else running,
            reason="TriggerClosed" if trouble else "",
            message=trouble,
            start_time=kept.start_time,
        )

    async def _listen(self, trigger: HttpTrigger, wanted: int, *, may_move: bool) -> int:
        """The port it got; one that nobody asked for by number may be another one than before."""
        try:
            return await trigger.open(wanted)
        except FailedPrecondition:
            if not (wanted and may_move):
                raise
        return await trigger.open(0)

    async def _living(self) -> LiveFunction:
        """The function, ready to make instances; what it runs on is built when it is not there."""
        if self.live is None:
            async with self._starting:
                if self.live is None:
                    self.live = await self._start()
        return self.live

    async def _start(self) -> LiveFunction:
        kept, means = self.kept, self._means
        place = means.store.place(kept.workload_id)

        def say(text: str) -> None:
            means.tell(kept.workload_id, text)

        if kept.spec.is_python:
            artifact = await means.runtimes.python(say)
        elif kept.spec.runtime == "javascript":
            artifact = await means.runtimes.javascript(say)
        else:
            artifact = await means.runtimes.user(place / WASM, kept.wasm_sha256, say)
        order: dict[str, Any] = {
            "kind": kept.wasm_kind or ("python" if kept.spec.is_python else "javascript"),
            "artifact": str(artifact.absolute()),
            "app": str((place / CODE).absolute()) if kept.spec.runtime != "wasm" else "",
            "handler": kept.spec.handler,
            "name": kept.spec.name,
            "env": dict(kept.spec.env),
            "memory_bytes": kept.spec.memory_bytes,
            "result_max": means.limits.result_bytes,
        }
        return LiveFunction(
            workload_id=kept.workload_id,
            spec=kept.spec,
            order=order,
            pool=means.pool,
            journal=self.journal,
            limits=means.limits,
            clock=means.clock,
            monotonic=means.monotonic,
        )
