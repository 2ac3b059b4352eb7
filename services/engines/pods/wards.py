"""The containers under supervision: how each was last seen, what is remembered of it, and whether it may run."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Set
from dataclasses import dataclass, replace

from services.engines.pods.memory import Memories, Remembered
from services.engines.pods.supervision import Sighting
from services.telemetry import Log

log = Log(__name__)


@dataclass(slots=True, kw_only=True)
class Ward:
    """One container."""

    seen: Sighting
    began: float
    """When the reading began in which it was seen so."""
    restarting: asyncio.Task[None] | None = None
    stopping: asyncio.Task[None] | None = None
    problem: str = ""
    """Why the last try to start it failed."""


class Wards:
    """All containers of one engine, by id; what is remembered of them outlives it."""

    def __init__(self, *, memories: Memories, may_run: Callable[[str], bool]) -> None:
        """`may_run` says of a workload whether it is meant to run: the record that it was stopped is not kept here."""
        self._memories = memories
        self._may_run = may_run
        self._wards: dict[str, Ward] = {}
        self._ending: set[str] = set()
        """Workloads that are being ended, or were, in this life of the engine."""
        self._acting: dict[str, asyncio.Lock] = {}
        self._missed: set[str] = set()
        """Containers and workloads that the last whole reading did not have."""

    def load(self) -> None:
        """Read what is remembered."""
        self._memories.load()

    def close(self) -> None:
        """Write what is not yet."""
        self._memories.close()

    def see(self, sighting: Sighting, began: float) -> Ward | None:
        """The container as it is seen now; None when it was seen later already."""
        ward = self._wards.get(sighting.container_id)
        if ward is None:
            ward = self._wards[sighting.container_id] = Ward(seen=sighting, began=began)
        if began < ward.began:
            return None
        ward.seen, ward.began = sighting, began
        return ward

    def get(self, container_id: str) -> Ward | None:
        """The container, if it is here."""
        return self._wards.get(container_id)

    def all(self) -> Collection[Ward]:
        """Every container."""
        return self._wards.values()

    def of(self, workload_id: str) -> list[Ward]:
        """The containers of one workload."""
        return [ward for ward in self._wards.values() if ward.seen.workload_id == workload_id]

    # What may run

    def end(self, workload_id: str) -> None:
        """Nothing of it may be started from here on."""
        self._ending.add(workload_id)

    def begin(self, workload_id: str) -> None:
        """It may be, again."""
        self._ending.discard(workload_id)

    def is_down(self, workload_id: str) -> bool:
        """Whether its containers are being stopped, or are to stay so."""
        return workload_id in self._ending or not self._may_run(workload_id)

    def lock(self, workload_id: str) -> asyncio.Lock:
        """Held while a container of it is being started, and while it is being ended."""
        return self._acting.setdefault(workload_id, asyncio.Lock())

    # What is remembered

    def known(self, seen: Sighting) -> Remembered:
        """What is remembered of a container."""
        return self._memories.of(seen.workload_id).of(seen.container_id)

    def remember(self, seen: Sighting, remembered: Remembered) -> None:
        """From now on; `save` makes it outlive this process."""
        memory = self._memories.of(seen.workload_id)
        self._memories.change(seen.workload_id, memory.with_(seen.container_id, remembered))

    async def save(self, workload_id: str, *, durable: bool) -> None:
        """Write what is remembered of a workload; never raises."""
        try:
            await self._memories.save(workload_id, durable=durable)
        except OSError as error:  # a container is rather restarted uncounted than not at all
            log.error("restart_memory_not_written", workload_id=workload_id, why=error)

    # What is gone

    def drop(self, container_id: str) -> None:
        """It is gone: nothing is done for it any more, and nothing remembered of it."""
        ward = self._wards.pop(container_id, None)
        if ward is None:
            return
        for task in (ward.restarting, ward.stopping):
            if task is not None and task is not asyncio.current_task():
                task.cancel()
        memory = self._memories.of(ward.seen.workload_id)
        left = {name: known for name, known in memory.containers.items() if name != container_id}
        self._memories.change(ward.seen.workload_id, replace(memory, containers=left))

    async def forget(self, workload_id: str) -> None:
        """The workload is gone."""
        self._ending.discard(workload_id)
        self._acting.pop(workload_id, None)
        try:
            await self._memories.forget(workload_id)
        except OSError as error:
            log.warning("restart_memory_not_deleted", workload_id=workload_id, why=error)

    def missing(self, containers: Set[str], workloads: Set[str]) -> tuple[Set[str], Set[str]]:
        """The containers and workloads that are neither among these, of a whole reading, nor were in the one before."""
        gone = self._wards.keys() - containers
        forgotten = self._memories.known() - workloads
        before, self._missed = self._missed, {*gone, *forgotten}
        return gone & before, forgotten & before
