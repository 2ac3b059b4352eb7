"""An engine's backend with every wait bounded: what the keeper asks of an `Engine` goes through here."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

from services.engines.engine import Change, ComponentStats, Engine, Export, Observation, Spec
from services.engines.records import Halt, Removal
from services.errors import DeadlineExceeded, NotFound, Unavailable


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How long the keeper waits, in seconds."""

    observe: float = 3.0
    """For the backend's word on one workload."""
    refresh: float = 10.0
    """For the backend's word on all of them."""
    poll: float = 5.0
    """Between two readings of the whole backend when nothing hints at a change."""
    settle: float = 0.05
    """After a hint, so that many hints make one reading."""
    give_way: float = 0.5
    """That a reading which was hinted at waits for operations under way: they tell what they do by themselves."""
    reopen: float = 1.0
    """Before a broken event stream is opened anew."""
    operation: float = 900.0
    """For one create or destroy, image pulls and grace periods included."""
    drain: float = 5.0
    """For operations under way when the engine stops; what is cut here is healed at the next start."""


class Backend:
    """`unreachable` says why the backend is known not to answer, or "" when it may: then nothing waits for it."""

    def __init__(self, *, engine: Engine, unreachable: Callable[[], str], limits: Limits) -> None:
        self._engine = engine
        self._unreachable = unreachable
        self._limits = limits

    def why_unreachable(self) -> str:
        """Why it is known not to answer; "" when it may."""
        return self._unreachable()

    async def observe(self) -> Mapping[str, Observation]:
        """All workloads of this node; raises Unavailable, or what the engine raises."""
        async with self._reading("its workloads", self._limits.refresh):
            return await self._engine.observe()

    async def observe_one(self, workload_id: str) -> Observation | None:
        """One workload, None when the backend said that it has nothing of it; raises like `observe`."""
        async with self._reading(f"workload {workload_id}", self._limits.observe):
            return await self._engine.observe_one(workload_id)

    async def prepare(self, spec: Spec) -> None:
        """Have at hand what a creation needs; raises like `create`."""
        async with self._changing(f"workload {spec.workload_id} was not replaced"):
            await self._engine.prepare(spec)

    async def create(self, spec: Spec) -> None:
        """Create and start; raises what the engine raises, or DeadlineExceeded(BACKEND_TIMEOUT)."""
        async with self._changing(f"workload {spec.workload_id} was not created"):
            await self._engine.create(spec)

    async def destroy(self, workload_id: str, removal: Removal) -> None:
        """Stop and delete; returns only when nothing is left. Raises like `create`."""
        async with self._changing(f"workload {workload_id} was not destroyed"):
            await self._engine.destroy(
                workload_id,
                grace_seconds=removal.grace_seconds,
                force=removal.force,
                remove_volumes=removal.remove_volumes,
            )

    async def update(self, old: Spec, new: Spec, changes: Sequence[Change]) -> None:
        """Change in place; raises like `create`."""
        async with self._changing(f"workload {new.workload_id} was not updated"):
            await self._engine.update(old, new, changes)

    async def stop(self, workload_id: str, halt: Halt) -> None:
        """Stop and keep; raises like `create`."""
        async with self._changing(f"workload {workload_id} was not stopped", halt.grace_seconds):
            await self._engine.stop(workload_id, grace_seconds=halt.grace_seconds, signal=halt.signal)

    async def start(self, workload_id: str) -> None:
        """Start what is stopped; raises like `create`."""
        async with self._changing(f"workload {workload_id} was not started"):
            await self._engine.start(workload_id)

    async def restart(self, workload_id: str, grace_seconds: float | None) -> None:
        """Stop and start; raises like `create`."""
        async with self._changing(f"workload {workload_id} was not restarted", grace_seconds):
            await self._engine.restart(workload_id, grace_seconds=grace_seconds)

    async def stats(self, workload_id: str) -> Sequence[ComponentStats]:
        """One sample of each component; raises like `observe`."""
        async with self._reading(f"the use of workload {workload_id}", self._limits.refresh):
            return await self._engine.stats(workload_id)

    async def export(self, spec: Spec, observation: Observation | None) -> Export:
        """It as a manifest; raises like `observe`."""
        async with self._reading(f"workload {spec.workload_id}", self._limits.refresh):
            return await self._engine.export(spec, observation)

    def check_reachable(self) -> None:
        """Raise Unavailable(BACKEND_UNREACHABLE) when it is known not to answer."""
        if why := self._unreachable():
            raise self._silent(why)

    @asynccontextmanager
    async def _reading(self, what: str, seconds: float) -> AsyncIterator[None]:
        self.check_reachable()
        try:
            async with asyncio.timeout(seconds):
                yield
        except TimeoutError:
            raise self._silent(f"it did not say what it has of {what} within {seconds:g}s") from None

    @asynccontextmanager
    async def _changing(self, what: str, grace_seconds: float | None = None) -> AsyncIterator[None]:
        self.check_reachable()
        seconds = self._limits.operation + (grace_seconds or 0.0)
        try:
            async with asyncio.timeout(seconds):
                yield
        except TimeoutError:
            raise DeadlineExceeded(f"{what} within {seconds:g}s", reason="BACKEND_TIMEOUT") from None

    def _silent(self, why: str) -> Unavailable:
        return Unavailable(
            f"the backend of engine {self._engine.info.engine} does not answer: {why}",
            reason="BACKEND_UNREACHABLE",
            metadata={"engine": self._engine.info.engine},
            retry_after=5.0,
        )


def not_found(workload_id: str) -> NotFound:
    """The backend has said that it has nothing of this workload."""
    return NotFound(
        f"workload {workload_id} is not on this engine",
        reason="WORKLOAD_NOT_FOUND",
        metadata={"workload_id": workload_id},
    )
