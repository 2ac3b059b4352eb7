"""Keeps the processes of a node running, says when all of them answer, and stops them in order."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Sequence
from contextlib import suppress
from typing import Any, Protocol

from services.errors import FailedPrecondition
from services.node.plan import Process
from services.node.restart import Backoff
from services.rpc.process import EX_CONFIG
from services.telemetry import Log

PROBE_EVERY_SECONDS = 0.1
NOT_LAUNCHED = 255
"""Stands for the exit code of a process that could not be made."""

HOPELESS = (2, EX_CONFIG)
"""Exit codes of a service whose settings are wrong: before the node was ready once, that ends it."""

SILENCES = 6
"""So many questions in a row without an answer are a hang. Counted, not timed: a machine that slept has asked once."""

SLOW_START_SECONDS = 15.0
"""A service that does not answer for so long after its start is said to be slow, once."""

log = Log(__name__)


class Running(Protocol):
    """A started process: what asyncio's Process has."""

    @property
    def pid(self) -> int:
        """Its process id."""

    async def wait(self) -> int:
        """Wait for its end; the exit code, negative for a signal."""

    def send_signal(self, signal: int, /) -> None:
        """Signal it; a process that has ended is no error."""


Launch = Callable[[Process], Awaitable[Running]]
"""Starts a process."""


class Supervisor:
    """Runs `processes` until told to stop; one that ends is started again after a growing delay, for ever.

    `launch` starts one; `answers` says whether a started one is ready to serve; `on_ready` is called once all are.
    One that was ready and then answers nothing for `hang_seconds` (0: for ever) is killed and started again; `lives`
    asks it once, and may take the seconds that it is given.
    """

    def __init__(
        self,
        *,
        processes: Sequence[Process],
        launch: Launch,
        answers: Callable[[Process], Awaitable[bool]],
        on_ready: Callable[[], None],
        lives: Callable[[Process, float], Coroutine[Any, Any, bool]],
        stop_seconds: float,
        hang_seconds: float,
        backoff: Backoff = Backoff(),  # noqa: B008 - it is frozen
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._processes = processes
        self._launch = launch
        self._answers = answers
        self._on_ready = on_ready
        self._lives = lives
        self._hang_seconds = hang_seconds
        self._stop_seconds = stop_seconds
        self._backoff = backoff
        self._clock = clock
        self._running: dict[str, Running] = {}
        self._ready: set[str] = set()
        self._announced = False
        self._stopping = asyncio.Event()

    async def run(self, stop: asyncio.Event) -> None:
        """Run until `stop` is set, then stop every process, the highest stage first."""
        try:
            async with asyncio.TaskGroup() as tasks:
                keepers = {process.name: tasks.create_task(self._keep(process)) for process in self._processes}
                await stop.wait()
                self._stopping.set()
                for stage in sorted({process.stage for process in self._processes}, reverse=True):
                    names = [process.name for process in self._processes if process.stage == stage]
                    await self._stop(names, [keepers[name] for name in names])
        finally:
            self._signal(list(self._running), signal.SIGKILL)

    async def _keep(self, process: Process) -> None:
        backoff = self._backoff
        while not self._stopping.is_set():
            began = self._clock()
            code = await self._run_once(process)
            if self._stopping.is_set():
                log.info("service_stopped", name=process.name, code=code)
                return
            if code in HOPELESS and not self._announced:
                raise FailedPrecondition(
                    f"{process.name} cannot start as it is set up; it said why above", reason="SERVICE_MISCONFIGURED"
                )
            uptime = self._clock() - began
            backoff = backoff.after(uptime)
            tell, event = (log.error, "service_keeps_failing") if backoff.hopeless else (log.warning, "service_ended")
            tell(event, name=process.name, code=code, uptime_seconds=round(uptime, 1), again_in_seconds=backoff.delay)
            await self._pause(backoff.delay)

    async def _run_once(self, process: Process) -> int:
        try:
            running = await self._launch(process)
        except OSError as error:  # no process, memory or descriptor left: as good as one that ended at once
            log.error("service_not_launched", name=process.name, reason=error)
            return NOT_LAUNCHED
        self._running[process.name] = running
        log.info("service_started", name=process.name, pid=running.pid)
        if self._stopping.is_set():  # it came to life while everything else was being stopped
            self._signal([process.name], signal.SIGTERM)
        try:
            async with asyncio.TaskGroup() as tasks:
                watch = tasks.create_task(self._attend(process))
                code = await running.wait()
                watch.cancel()
        finally:
            self._ready.discard(process.name)
        del self._running[process.name]
        return code

    async def _attend(self, process: Process) -> None:
        await self._await_ready(process)
        if self._hang_seconds > 0:
            await self._await_hang(process)
            log.error("service_hangs", name=process.name, silent_seconds=self._hang_seconds)
            self._signal([process.name], signal.SIGKILL)

    async def _await_hang(self, process: Process) -> None:
        """Ask again and again; return once it was silent so often in a row that it is not merely slow."""
        pause, silences = self._hang_seconds / SILENCES, 0
        while silences < SILENCES:
            async with asyncio.TaskGroup() as tasks:  # what fails at once is a silence like any other
                tasks.create_task(asyncio.sleep(pause))
                asked = tasks.create_task(self._lives(process, pause))
            silences = 0 if asked.result() else silences + 1

    async def _await_ready(self, process: Process) -> None:
        began, told = self._clock(), False
        while not await self._answers(process):
            await asyncio.sleep(PROBE_EVERY_SECONDS)
            if not told and self._clock() - began > SLOW_START_SECONDS:
                log.warning("service_slow_to_start", name=process.name, socket=process.socket)
                told = True
        self._ready.add(process.name)
        log.info("service_ready", name=process.name, seconds=round(self._clock() - began, 2))
        if not self._announced and len(self._ready) == len(self._processes):
            self._announced = True
            self._on_ready()

    async def _pause(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._stopping.wait()
        except TimeoutError:
            return

    async def _stop(self, names: Sequence[str], keepers: Sequence[asyncio.Task[None]]) -> None:
        self._signal(names, signal.SIGTERM)
        _done, late = await asyncio.wait(keepers, timeout=self._stop_seconds)
        if late:
            stuck = [name for name in names if name in self._running]
            log.warning("services_killed", names=",".join(stuck), after_seconds=self._stop_seconds)
            self._signal(stuck, signal.SIGKILL)
            await asyncio.wait(late)

    def _signal(self, names: Iterable[str], number: int) -> None:
        for name in names:
            with suppress(KeyError, ProcessLookupError):  # it is not running, or has just ended
                self._running[name].send_signal(number)
