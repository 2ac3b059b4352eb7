"""The supervisor, over processes that are only told to be there."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from services.node.plan import Process, Stage
from services.node.restart import Backoff
from services.node.supervisor import SILENCES, Supervisor

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

AT_ONCE = Backoff(steps=(0.0,))
NEVER = Backoff(steps=(3600.0,))


class FakeProcess:
    """Runs until it is signalled; `deaf` to TERM, it ends only by KILL."""

    def __init__(self, world: World, process: Process, pid: int) -> None:
        self.pid = pid
        self._world = world
        self._name = process.name
        self._end: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    async def wait(self) -> int:
        return await self._end

    def send_signal(self, number: int, /) -> None:
        if self._end.done():
            raise ProcessLookupError
        self._world.happened(f"{signal.Signals(number).name} {self._name}")
        if number == signal.SIGKILL or self._name not in self._world.deaf:
            self.end(-number)

    def end(self, code: int) -> None:
        self._end.set_result(code)
        self._world.happened(f"end {self._name}")


class World:
    """What was started and signalled, in order; a test waits for a line of it."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.deaf: set[str] = set()
        self.mute: set[str] = set()
        """Services that run and do not answer."""
        self.silent: dict[str, int] = {}
        """Services that live and do not answer that many questions."""
        self.asked: list[str] = []
        """Who was asked whether it lives."""
        self.processes: dict[str, FakeProcess] = {}
        self.full = 0
        """So many launches fail for want of memory."""
        self.now = 0.0
        self._changed = asyncio.Event()

    def happened(self, line: str) -> None:
        self.lines.append(line)
        self._changed.set()

    async def until(self, condition: Callable[[list[str]], bool]) -> None:
        async with asyncio.timeout(5):
            while not condition(self.lines):
                self._changed.clear()
                await self._changed.wait()

    async def launch(self, process: Process) -> FakeProcess:
        if self.full:
            self.full -= 1
            raise BlockingIOError("no process left")
        running = FakeProcess(self, process, pid=len(self.lines) + 1)
        self.processes[process.name] = running
        self.happened(f"start {process.name}")
        return running

    async def answers(self, process: Process) -> bool:
        return process.name not in self.mute

    async def lives(self, process: Process, seconds: float) -> bool:
        self.asked.append(process.name)
        self._changed.set()
        if self.silent.get(process.name, 0) == 0:
            return True
        self.silent[process.name] -= 1
        return False

    @asynccontextmanager
    async def supervised(
        self,
        *processes: Process,
        backoff: Backoff = AT_ONCE,
        stop_seconds: float = 5.0,
        hang_seconds: float = 0.0,
    ) -> AsyncIterator[asyncio.Event]:
        supervisor = Supervisor(
            processes=processes,
            launch=self.launch,
            answers=self.answers,
            on_ready=lambda: self.happened("READY"),
            lives=self.lives,
            stop_seconds=stop_seconds,
            hang_seconds=hang_seconds,
            backoff=backoff,
            clock=lambda: self.now,
        )
        stop = asyncio.Event()
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(supervisor.run(stop))
            yield stop
            stop.set()


def service(name: str, stage: Stage = Stage.ENGINE) -> Process:
    """A service of the plan; its name is all that matters here."""
    return Process(name=name, module=name, arguments=(), socket=Path(f"/{name}"), stage=stage)


ALL = (
    service("registry", Stage.REGISTRY),
    service("provider", Stage.PROVIDER),
    service("engine-a"),
    service("engine-b"),
    service("orchestrator", Stage.ORCHESTRATOR),
)


@pytest.fixture
async def world() -> World:
    """A world in which nothing has happened."""
    return World()


async def test_everything_is_started_and_said_to_be_ready_once(world: World) -> None:
    """All services are started; READY is said once, after all of them answer."""
    async with world.supervised(*ALL):
        await world.until(lambda lines: "READY" in lines)
        world.processes["provider"].end(1)
        await world.until(lambda lines: lines.count("start provider") == 2)
    assert world.lines.count("READY") == 1
    assert all(world.lines.index(f"start {process.name}") < world.lines.index("READY") for process in ALL)


async def test_a_service_that_does_not_answer_holds_ready_back(world: World) -> None:
    """While one service runs and does not answer, the node is not ready."""
    world.mute.add("engine-b")
    async with world.supervised(*ALL):
        await world.until(lambda lines: sum(line.startswith("start") for line in lines) == len(ALL))
        await asyncio.sleep(0)
    assert "READY" not in world.lines


async def test_a_service_that_ends_is_started_again_alone(world: World) -> None:
    """When one service ends, it is started again and no other is touched."""
    async with world.supervised(*ALL):
        await world.until(lambda lines: "READY" in lines)
        before = len(world.lines)
        world.processes["engine-a"].end(-9)
        await world.until(lambda lines: lines.count("start engine-a") == 2)
        assert world.lines[before:] == ["end engine-a", "start engine-a"]


async def test_a_service_that_cannot_run_is_tried_on(world: World) -> None:
    """A service that ends again and again is started again and again, and the others run on."""
    async with world.supervised(*ALL):
        for count in range(1, 20):
            await world.until(lambda lines, count=count: lines.count("start orchestrator") == count)  # type: ignore[misc]
            world.processes["orchestrator"].end(1)
        await world.until(lambda lines: lines.count("start orchestrator") == 20)
        assert not [line for line in world.lines if line.startswith("end") and "orchestrator" not in line]


async def test_services_stop_in_order(world: World) -> None:
    """Each stage is stopped only when the one above it has ended: orchestrator, engines, provider, registry."""
    async with world.supervised(*ALL):
        await world.until(lambda lines: "READY" in lines)
        before = len(world.lines)
    stopped = world.lines[before:]
    assert stopped[:2] == ["SIGTERM orchestrator", "end orchestrator"]
    assert sorted(stopped[2:6]) == ["SIGTERM engine-a", "SIGTERM engine-b", "end engine-a", "end engine-b"]
    assert stopped[6:] == ["SIGTERM provider", "end provider", "SIGTERM registry", "end registry"]


async def test_a_service_that_does_not_stop_is_killed(world: World) -> None:
    """A service deaf to TERM is killed when its time is over, and the rest stop as they should."""
    world.deaf.add("engine-a")
    async with world.supervised(*ALL, stop_seconds=0.01):
        await world.until(lambda lines: "READY" in lines)
    assert "SIGKILL engine-a" in world.lines
    assert world.lines[-2:] == ["SIGTERM registry", "end registry"]


async def test_nothing_is_started_while_stopping(world: World) -> None:
    """A service that waits for its next start when the node stops is not started any more."""
    async with world.supervised(*ALL, backoff=NEVER):
        await world.until(lambda lines: "READY" in lines)
        world.processes["engine-b"].end(1)
        await world.until(lambda lines: "end engine-b" in lines)
    assert world.lines.count("start engine-b") == 1
    assert world.lines[-1] == "end registry"


async def test_a_launch_that_fails_is_tried_again(world: World) -> None:
    """When the machine cannot make a process, the service is tried again and the node lives on."""
    world.full = 2
    async with world.supervised(*ALL):
        await world.until(lambda lines: "READY" in lines)
    assert world.full == 0
    assert world.lines.count("start registry") == 1


async def test_a_steady_service_is_back_at_once(world: World) -> None:
    """After a long run the first, short wait of the table applies again."""
    async with world.supervised(service("one"), backoff=Backoff(steps=(0.0, 3600.0))):
        await world.until(lambda lines: "start one" in lines)
        for count in range(2, 5):
            world.now += 60.0
            world.processes["one"].end(1)
            await world.until(lambda lines, count=count: lines.count("start one") == count)  # type: ignore[misc]
    assert world.lines.count("start one") == 4


AT_ONCE_HANGS = 1e-6
"""Seconds: questions follow each other as fast as the loop turns."""


async def test_a_service_that_hangs_is_killed_and_started_again_alone(world: World) -> None:
    """A service that was ready and answers nothing any more is killed and comes back; no other is touched."""
    async with world.supervised(*ALL, hang_seconds=AT_ONCE_HANGS):
        await world.until(lambda lines: "READY" in lines)
        before = len(world.lines)
        world.silent["engine-a"] = SILENCES
        await world.until(lambda lines: lines.count("start engine-a") == 2)
        assert world.lines[before:] == ["SIGKILL engine-a", "end engine-a", "start engine-a"]


async def test_a_service_that_is_slow_is_left_alone(world: World) -> None:
    """Any answer begins the count anew: a service that misses all questions but one in a row is not killed."""
    async with world.supervised(*ALL, hang_seconds=AT_ONCE_HANGS):
        await world.until(lambda lines: "READY" in lines)
        for _ in range(5):
            world.silent["engine-a"] = SILENCES - 1
            asked = world.asked.count("engine-a")
            await world.until(lambda _lines, asked=asked: world.asked.count("engine-a") > asked + SILENCES)  # type: ignore[misc]
    assert "SIGKILL engine-a" not in world.lines


async def test_a_service_that_is_not_ready_yet_is_not_taken_to_hang(world: World) -> None:
    """How long a start takes is nobody's business here."""
    world.mute.add("engine-b")
    async with world.supervised(*ALL, hang_seconds=AT_ONCE_HANGS):
        await world.until(lambda _lines: len(world.asked) > 3 * SILENCES)
        assert "engine-b" not in world.asked


async def test_where_it_is_switched_off_nobody_is_asked(world: World) -> None:
    """With hang_seconds 0 no service is ever killed for its silence."""
    async with world.supervised(*ALL, hang_seconds=0.0):
        await world.until(lambda lines: "READY" in lines)
        await asyncio.sleep(0)
    assert world.asked == []
