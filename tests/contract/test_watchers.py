"""A thousand watchers of one node, and some that stop reading: these are cut and told, the others miss nothing."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import pytest
from beemesh.engine.v1 import engine_service_pb2 as engine_pb
from beemesh.engine.v1 import mock_engine_service_pb2 as mock_pb
from beemesh.engine.v1 import mock_engine_service_pb2_grpc as mock_grpc
from beemesh.orchestrator.v1 import orchestrator_service_pb2 as pb
from beemesh.orchestrator.v1 import orchestrator_service_pb2_grpc as pb_grpc
from beemesh.type.v1 import types_pb2

from scripts.local_node import LocalNode
from services.rpc.client import connect
from tests.harness.errors import refusal

POD = """\
apiVersion: v1
kind: Pod
metadata: {name: web, annotations: {beemesh.io/runtime-engine: mock}}
spec: {containers: [{name: main, image: "localhost/busybox:1"}]}
"""
DEPLOYMENTS = 100
OF_ALL, OF_ONE = 5, 995
"""Watchers of everything, and of a single deployment each."""
ROUNDS = 11
"""Each changes every deployment two or three times: 3,300 changes or so, more than the feed keeps (2,048)."""
GROWTH_MAX = 16
"""MiB of 87. Measured: 5, which is the feed's log filling up; were each watcher's messages kept, or a follower's lines,
it would be 30 and more."""
LINES, BATCHES = 500, 40
FOLLOWERS = 10
LONG = 60.0
FLIPS = (
    (engine_pb.ENGINE_HEALTH_STATE_UNHEALTHY, pb.DEPLOYMENT_STATE_UNKNOWN),
    (engine_pb.ENGINE_HEALTH_STATE_HEALTHY, pb.DEPLOYMENT_STATE_ACTIVE),
)
SYNCED = types_pb2.WATCH_EVENT_TYPE_SYNCED
SNAPSHOT = types_pb2.WATCH_EVENT_TYPE_SNAPSHOT


@dataclass(slots=True)
class Watcher:
    """What one watcher was told after SYNCED."""

    name: str
    told: list[tuple[int, str]] = field(default_factory=list)
    """The number of each change, and whose it is."""
    states: dict[str, int] = field(default_factory=dict)
    """Of each deployment, as last told."""
    synced: asyncio.Event = field(default_factory=asyncio.Event)

    async def run(self, stub: pb_grpc.OrchestratorServiceStub) -> None:
        async for message in stub.WatchDeployments(pb.WatchDeploymentsRequest(name=self.name), timeout=LONG):
            if message.type == SYNCED:
                self.synced.set()
            if message.HasField("deployment"):
                self.states[message.deployment.deployment_id] = message.deployment.state
            if message.HasField("deployment") and message.type != SNAPSHOT:
                self.told.append((number(message.resume_token), message.deployment.deployment_id))


def number(token: str) -> int:
    """The place of a change in the feed."""
    return int(token.partition(":")[2])


def resident(pid: int) -> float:
    """MiB of memory that a process has."""
    line = next(line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmRSS"))
    return int(line.split()[1]) / 1024


class Busy:
    """A node with many deployments, whose workloads change as told."""

    def __init__(self, node: LocalNode, channel: grpc.aio.Channel, engine: grpc.aio.Channel) -> None:
        self.node = node
        self.orchestrator = pb_grpc.OrchestratorServiceStub(channel)
        self._mock = mock_grpc.MockEngineServiceStub(engine)
        self._first = ""

    @property
    def memory(self) -> float:
        """MiB that the orchestrator has."""
        return resident(self.node.services()["services.orchestrator"])

    async def fill(self) -> None:
        manifest = types_pb2.Manifest(content=POD)
        for index in range(DEPLOYMENTS):
            request = pb.ApplyManifestRequest(deployment_id=f"d{index}", manifest=manifest)
            answer = await self.orchestrator.ApplyManifest(request, timeout=LONG)
            self._first = self._first or answer.deployment.instances[0].workload_id

    async def change_all(self, watchers: Sequence[Watcher]) -> None:
        """Every workload falls silent and is heard again; these watchers of everything have seen it by then."""
        for health, state in FLIPS:
            await self._mock.SetMockBehavior(mock_pb.SetMockBehaviorRequest(health=health), timeout=LONG)
            async with asyncio.timeout(LONG):
                while any(set(watcher.states.values()) != {state} for watcher in watchers):
                    await asyncio.sleep(0.01)

    async def write(self, lines: Iterable[str]) -> None:
        """The first workload writes to its log."""
        request = mock_pb.SetMockWorkloadRequest(workload_id=self._first, log_lines=list(lines))
        await self._mock.SetMockWorkload(request, timeout=LONG)


@asynccontextmanager
async def busy(node: LocalNode) -> AsyncIterator[Busy]:
    """The node, filled."""
    engine = f"unix:{node.run_dir}/engine-mock.sock"
    async with connect(node.socket) as channel, connect(engine) as beside:
        found = Busy(node, channel, beside)
        await found.fill()
        yield found


@pytest.fixture(scope="module")
def node() -> Iterator[LocalNode]:
    """A node of real processes: the orchestrator's memory is its own."""
    with LocalNode(engines="mock") as node:
        yield node


@pytest.mark.timeout(180)
async def test_the_stalled_is_cut_and_told_and_a_thousand_others_miss_nothing(node: LocalNode) -> None:
    """Each change once and in order to who watches it; memory stays flat; the stalled one ends with ABORTED."""
    async with busy(node) as work, connect(node.socket) as apart, asyncio.TaskGroup() as tasks:
        call = pb_grpc.OrchestratorServiceStub(apart).WatchDeployments(pb.WatchDeploymentsRequest(), timeout=LONG)
        stalled = aiter(call)
        await anext(stalled)
        watchers = [Watcher("") for _ in range(OF_ALL)]
        watchers += [Watcher(f"d{index % DEPLOYMENTS}") for index in range(OF_ONE)]
        running = [tasks.create_task(watcher.run(work.orchestrator)) for watcher in watchers]
        for watcher in watchers:
            await watcher.synced.wait()
        before = 0.0
        for _ in range(ROUNDS):
            await work.change_all(watchers[:OF_ALL])
            before = before or work.memory  # the first round has filled caches and buffers
        await settled(watchers)
        grown = work.memory - before
        for task in running:
            task.cancel()
        check_complete(watchers)
        assert grown < GROWTH_MAX
        error = await refusal(stalled)
        assert (error.code.name, error.reason) == ("ABORTED", "SLOW_CONSUMER")


async def settled(watchers: Sequence[Watcher]) -> None:
    """Wait until all of them have been told the last change of what they watch."""
    async with asyncio.timeout(LONG):
        while len({watcher.told[-1] for watcher in watchers[:OF_ALL]}) > 1 or not all(
            watcher.told and watcher.told[-1] == last_of(watchers[0], watcher.name) for watcher in watchers[OF_ALL:]
        ):
            await asyncio.sleep(0.1)


def last_of(reference: Watcher, name: str) -> tuple[int, str] | None:
    return next((change for change in reversed(reference.told) if change[1] == name), None)


def check_complete(watchers: Sequence[Watcher]) -> None:
    """The truth are the numbers of changes: without a gap for who watches all, and the same for everybody else."""
    truth = watchers[0].told
    numbers = [change for change, _ in truth]
    assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))
    assert len(numbers) >= 2 * ROUNDS * DEPLOYMENTS
    for watcher in watchers:
        assert watcher.told == [change for change in truth if watcher.name in ("", change[1])], watcher.name


@pytest.mark.timeout(120)
async def test_a_stalled_follower_of_logs_costs_nothing_and_the_others_get_every_line(node: LocalNode) -> None:
    """What it does not take is not read for it; when it reads on it is told how much it has missed."""
    async with busy(node) as work, connect(node.socket) as apart, asyncio.TaskGroup() as tasks:
        request = pb.StreamDeploymentLogsRequest(name="d0", follow=True, tail_lines=0)
        stalled: Any = pb_grpc.OrchestratorServiceStub(apart).StreamDeploymentLogs(request, timeout=LONG)
        texts: list[list[str]] = [[] for _ in range(FOLLOWERS)]

        async def follow(taken: list[str]) -> None:
            async for message in work.orchestrator.StreamDeploymentLogs(request, timeout=LONG):
                taken.extend(entry.text for entry in message.entries)

        running = [tasks.create_task(follow(taken)) for taken in texts]
        await everybody_follows(work, texts)
        before, written = 0.0, list(texts[0])
        for batch in range(BATCHES):
            lines = [f"line {batch * LINES + index} ".ljust(200, ".") for index in range(LINES)]
            written += lines
            await work.write(lines)
            async with asyncio.timeout(LONG):
                while any(len(taken) < len(written) for taken in texts):
                    await asyncio.sleep(0.01)
            before = before or work.memory
        assert all(taken == written for taken in texts)
        assert work.memory - before < GROWTH_MAX
        for task in running:
            task.cancel()
        await told_of_the_loss(stalled, len(written))


async def everybody_follows(work: Busy, texts: Sequence[list[str]]) -> None:
    """Write a line now and then until all have one; what came before each began is dropped."""
    async with asyncio.timeout(LONG):
        while not all(texts):
            await work.write(["begin"])
            await asyncio.sleep(0.05)
    for taken in texts:
        taken[:] = ["begin"]


async def told_of_the_loss(stalled: Any, written: int) -> None:
    """It gets what still lay on the way, then what is kept; between them stands how many lines are lost."""
    taken = dropped = 0
    while taken + dropped < written:
        message = await stalled.read()
        assert message is not grpc.aio.EOF
        taken += len(message.entries)
        dropped += sum(entry.dropped_lines for entry in message.entries)
    assert dropped > 0
    stalled.cancel()
