"""What must be remembered of containers over a restart of the engine: restarts and readiness.

One file a workload, replaced atomically. All of it is in memory too; who changes it says whether it must reach the disk
before anything else happens.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Set
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path

import msgspec

from services.data_dir.files import write_atomically
from services.engines.restarts import History
from services.telemetry import Log

_SUFFIX = ".json"
_WRITERS = 2

log = Log(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Remembered:
    """One container."""

    history: History = field(default_factory=History)
    ended_run: str = ""
    """The run about whose end was decided last; that it is counted is known from here."""
    delay: float | None = None
    """How long the restart after that run waits in all; None: it is not restarted."""
    due: float | None = None
    """When it is to be restarted, seconds since 1970; None: it was, or will not be."""
    unhealthy_run: str = ""
    """The run that a failed probe has ended, or is ending."""
    unhealthy_reason: str = ""
    unhealthy_message: str = ""
    """What the failed probe said."""
    run: str = ""
    """The run that `ready` and `started` are of."""
    ready: bool = False
    started: bool = False
    ready_once: bool = False
    """In this or an earlier run."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """One workload."""

    containers: Mapping[str, Remembered] = field(default_factory=dict)
    """By id."""

    def of(self, container_id: str) -> Remembered:
        """One container; what nothing is known of has not done anything yet."""
        return self.containers.get(container_id) or Remembered()

    def with_(self, container_id: str, remembered: Remembered) -> Memory:
        """The same with one container changed."""
        return replace(self, containers={**self.containers, container_id: remembered})


class Memories:
    """All workloads of one engine, in memory and in files under `directory`.

    What cannot be read is named in the log and begins anew: a lost counter must not keep a container from running.
    """

    def __init__(self, directory: Path, *, writers: Executor | None = None) -> None:
        """`writers` runs what waits for the disk."""
        self._directory = directory
        self._known: dict[str, Memory] = {}
        self._unsaved: set[str] = set()
        self._writing: dict[str, asyncio.Lock] = {}
        self._writers = writers or ThreadPoolExecutor(_WRITERS, thread_name_prefix="memory")

    def load(self) -> None:
        """Read all of it; makes the directory (0700) when there is none yet."""
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        for path in self._directory.glob(f"*{_SUFFIX}"):
            try:
                self._known[path.name.removesuffix(_SUFFIX)] = msgspec.json.decode(path.read_bytes(), type=Memory)
            except (OSError, ValueError) as error:
                log.error("restart_memory_unreadable", file=path, why=error)

    def close(self) -> None:
        """Write what is not yet; no disk is waited for."""
        self._writers.shutdown()
        for workload_id in list(self._unsaved):
            try:
                self._write(workload_id, durable=False)
            except OSError as error:
                log.warning("restart_memory_not_written", workload_id=workload_id, why=error)

    def of(self, workload_id: str) -> Memory:
        """What is known of a workload."""
        return self._known.get(workload_id) or Memory()

    def known(self) -> Set[str]:
        """The workloads of which something is."""
        return self._known.keys()

    def change(self, workload_id: str, memory: Memory) -> None:
        """From now on; `save` makes it outlive this process."""
        if memory != self._known.get(workload_id):
            self._known[workload_id] = memory
            self._unsaved.add(workload_id)

    async def save(self, workload_id: str, *, durable: bool) -> None:
        """Write what is not yet written; `durable`: it survives the machine. Raises OSError."""
        async with self._writing.setdefault(workload_id, asyncio.Lock()):
            if durable or workload_id in self._unsaved:
                loop = asyncio.get_running_loop()
                await loop.run_in_executor(self._writers, lambda: self._write(workload_id, durable=durable))

    async def forget(self, workload_id: str) -> None:
        """The workload is gone; a repeat is harmless. Raises OSError."""
        self._known.pop(workload_id, None)
        self._unsaved.discard(workload_id)
        async with self._writing.setdefault(workload_id, asyncio.Lock()):
            path = self._path(workload_id)
            await asyncio.get_running_loop().run_in_executor(self._writers, lambda: path.unlink(missing_ok=True))
        self._writing.pop(workload_id, None)

    def _write(self, workload_id: str, *, durable: bool) -> None:
        self._unsaved.discard(workload_id)  # before it is read: what changes from here on is written once more
        memory = self._known.get(workload_id)
        if memory is None:
            return
        try:
            write_atomically(self._path(workload_id), msgspec.json.encode(memory), durable=durable)
        except OSError:
            self._unsaved.add(workload_id)
            raise

    def _path(self, workload_id: str) -> Path:
        return self._directory / f"{workload_id}{_SUFFIX}"
