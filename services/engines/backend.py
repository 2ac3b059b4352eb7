"""An engine's backend with every wait bounded: what the keeper asks of an `Engine` goes through here."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass

from services.engines.engine import Engine, Observation, Spec
from services.engines.records import Removal
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
    async def _changing(self, what: str) -> AsyncIterator[None]:
        self.check_reachable()
        try:
            async with asyncio.timeout(self._limits.operation):
                yield
        except TimeoutError:
            raise DeadlineExceeded(f"{what} within {self._limits.operation:g}s", reason="BACKEND_TIMEOUT") from None

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
