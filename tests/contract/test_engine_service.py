"""How an engine's process starts, makes itself known, and ends."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import pytest
from beemesh.engine.v1 import engine_service_pb2 as pb
from beemesh.engine.v1.engine_service_pb2_grpc import EngineServiceStub
from beemesh.provider.v1 import provider_service_pb2 as provider_pb
from beemesh.provider.v1.provider_service_pb2_grpc import add_ProviderServiceServicer_to_server
from beemesh.registry.v1 import registry_service_pb2 as registry_pb
from beemesh.registry.v1.registry_service_pb2_grpc import add_RegistryServiceServicer_to_server
from beemesh.type.v1 import types_pb2 as tpb
from google.protobuf.duration_pb2 import Duration

from services.engines.mock.service import serve
from services.engines.mock.settings import MockSettings
from services.errors import BeemeshError, FailedPrecondition, Unavailable
from services.rpc.client import connect
from services.rpc.server import Server
from tests.harness.engines import NODE_A, NODE_B, EngineClient, mock_engine, running
from tests.harness.errors import refusal
from tests.harness.processes import short_directory, until_serving

SECONDS = 10
POD = "apiVersion: v1\nkind: Pod\nmetadata:\n  name: web\nspec:\n  containers:\n  - {name: main, image: 'example:1'}\n"
WORKLOAD = "beemesh-web-12345678"
DEPLOY = pb.DeployWorkloadRequest(workload_id=WORKLOAD, manifest_id="web", manifest=tpb.Manifest(content=POD))


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory for one node."""
    with short_directory() as directory:
        yield directory


class Provider:
    """Knows the node's id, and nothing else."""

    def __init__(self, node_id: str) -> None:
        self._node_id = node_id

    async def GetNodeIdentity(self, request: Any, context: Any) -> provider_pb.GetNodeIdentityResponse:  # noqa: N802
        """The id."""
        return provider_pb.GetNodeIdentityResponse(node_id=self._node_id)

    def __getattr__(self, name: str) -> Any:
        """Every other method of the service."""
        return None


class Registry:
    """Notes who registers."""

    def __init__(self) -> None:
        self.registered: list[registry_pb.RegisterEngineRequest] = []
        self.left: list[registry_pb.UnregisterEngineRequest] = []

    async def RegisterEngine(self, request: Any, context: Any) -> registry_pb.RegisterEngineResponse:  # noqa: N802
        """Wants to hear again very soon."""
        self.registered.append(request)
        return registry_pb.RegisterEngineResponse(renew_interval=Duration(nanos=1))

    async def UnregisterEngine(self, request: Any, context: Any) -> registry_pb.UnregisterEngineResponse:  # noqa: N802
        """Good bye."""
        self.left.append(request)
        return registry_pb.UnregisterEngineResponse()

    def __getattr__(self, name: str) -> Any:
        """Every other method of the service."""
        return None


@asynccontextmanager
async def provider(place: Path, node_id: str) -> AsyncIterator[None]:
    """A provider of this node id."""
    server = Server(addresses=[f"unix:{place}/provider.sock"], drain_seconds=0)
    server.add(add_ProviderServiceServicer_to_server, Provider(node_id), "beemesh.provider.v1.ProviderService")
    async with server:
        yield


@asynccontextmanager
async def registry(place: Path, noted: Registry) -> AsyncIterator[None]:
    """A registry."""
    server = Server(addresses=[f"unix:{place}/registry.sock"], drain_seconds=0)
    server.add(add_RegistryServiceServicer_to_server, noted, "beemesh.registry.v1.RegistryService")
    async with server:
        yield


def settings(place: Path) -> MockSettings:
    """An engine that asks the provider who it is."""
    return MockSettings(
        listen=f"unix:{place}/mock.sock",
        data_dir=f"{place}/mock",
        registry="",
        provider=f"unix:{place}/provider.sock",
    )


async def node_of(client: EngineClient) -> str:
    """The node id in the labels of a workload."""
    answer = await client.engine.DeployWorkload(DEPLOY, timeout=SECONDS)
    return answer.workload.metadata["beemesh.io/node-id"]


async def test_until_the_node_is_known_calls_are_unavailable(place: Path) -> None:
    """The port is open, readiness is NOT_SERVING, calls say NODE_ID_UNKNOWN; when the provider answers it serves."""
    stop = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        group.create_task(serve(settings(place), stop))
        async with connect(f"unix:{place}/mock.sock", files=[]) as channel:
            await until_serving(channel, "liveness")
            stub = EngineServiceStub(channel)
            error = await refusal(stub.GetEngineInfo(pb.GetEngineInfoRequest(), timeout=SECONDS))
            assert (type(error), error.reason) == (Unavailable, "NODE_ID_UNKNOWN")
            with pytest.raises(TimeoutError):
                await until_serving(channel, seconds=0.2)
            async with provider(place, NODE_B):
                await until_serving(channel)
            answer = await stub.DeployWorkload(DEPLOY, timeout=SECONDS)
            assert answer.workload.metadata["beemesh.io/node-id"] == NODE_B
        stop.set()


async def test_it_can_be_stopped_while_it_waits_for_the_node(place: Path) -> None:
    """A node that never comes up does not keep its engines."""
    stop = asyncio.Event()
    async with asyncio.timeout(SECONDS), asyncio.TaskGroup() as group:
        group.create_task(serve(settings(place), stop))
        async with connect(f"unix:{place}/mock.sock") as channel:
            await until_serving(channel, "liveness")
        stop.set()


async def test_a_known_node_needs_no_provider(place: Path) -> None:
    """After the first start the id is on disk."""
    target = f"unix:{place}/mock.sock"
    async with provider(place, NODE_B), running(target, lambda stop: serve(settings(place), stop)) as client:
        assert await node_of(client) == NODE_B
    async with running(target, lambda stop: serve(settings(place), stop)) as client:
        assert await node_of(client) == NODE_B


async def test_a_setting_beats_the_provider(place: Path) -> None:
    """The provider is not even asked."""
    told = replace(settings(place), node_id=NODE_A)
    target = f"unix:{place}/mock.sock"
    async with provider(place, NODE_B), running(target, lambda stop: serve(told, stop)) as client:
        assert await node_of(client) == NODE_A


@pytest.mark.parametrize("who", ["provider", "setting"])
async def test_another_nodes_data_directory_is_refused(place: Path, who: str) -> None:
    """Another id than before, from the provider or a setting, ends the engine with both ids; its records stay."""
    target = f"unix:{place}/mock.sock"
    async with provider(place, NODE_B), running(target, lambda stop: serve(settings(place), stop)) as client:
        await node_of(client)
    other = settings(place) if who == "provider" else replace(settings(place), node_id=NODE_A)
    async with provider(place, NODE_A), asyncio.timeout(SECONDS):
        with pytest.raises(BaseExceptionGroup) as caught:
            await serve(other, asyncio.Event())
    error = innermost(caught.value)
    assert isinstance(error, FailedPrecondition)
    assert error.reason == "NODE_ID_CHANGED"
    assert NODE_A in error.message
    assert NODE_B in error.message
    async with running(target, lambda stop: serve(settings(place), stop)) as client:
        request = pb.GetWorkloadManifestRequest(workload_id=WORKLOAD)
        assert (await client.engine.GetWorkloadManifest(request, timeout=SECONDS)).manifest.content == POD


async def test_nobody_to_ask_is_an_error(place: Path) -> None:
    """Without provider and node_id it does not wait for ever."""
    alone = replace(settings(place), provider="")
    with pytest.raises(BaseExceptionGroup) as caught:
        await serve(alone, asyncio.Event())
    assert isinstance(innermost(caught.value), FailedPrecondition)


def innermost(error: BaseException) -> BaseException:
    """What a group of groups is about."""
    while isinstance(error, BaseExceptionGroup):
        (error,) = error.exceptions
    return error


@pytest.mark.parametrize("name", ["probe_interval", "probe_timeout", "poll_interval", "observe_timeout"])
def test_a_wait_of_no_time_is_a_wrong_setting(name: str) -> None:
    """It would be a loop without rest."""
    wrong: dict[str, Any] = {name: 0.0}
    with pytest.raises(ValueError, match=name):
        MockSettings(**wrong)


async def test_two_engines_cannot_share_a_data_directory(place: Path) -> None:
    """The second is refused, the first serves on."""
    async with mock_engine(place) as client:
        second = replace(settings(place), listen=f"unix:{place}/second.sock", node_id=NODE_A)
        with pytest.raises(FailedPrecondition) as caught:
            await serve(second, asyncio.Event())
        assert caught.value.reason == "DATA_DIR_IN_USE"
        assert await node_of(client) == NODE_A


async def test_it_registers_renews_and_leaves(place: Path) -> None:
    """With its endpoint and instance, again and again, through a registry's restart, and it unregisters at the end."""
    noted = Registry()
    async with mock_engine(place, registry=f"unix:{place}/registry.sock") as client:
        info = (await client.engine.GetEngineInfo(pb.GetEngineInfoRequest(), timeout=SECONDS)).info
        async with registry(place, noted):
            await until(lambda: len(noted.registered) >= 2)
        before = len(noted.registered)
        async with registry(place, noted):
            await until(lambda: len(noted.registered) > before)
        last = registry(place, noted)
        await last.__aenter__()
    await last.__aexit__(None, None, None)
    first = noted.registered[0]
    assert (first.engine_id, first.endpoint, first.instance_id) == ("mock", f"unix:{place}/mock.sock", info.instance_id)
    assert first.lease_duration == Duration(seconds=15)
    assert {request.SerializeToString() for request in noted.registered} == {first.SerializeToString()}
    assert [(gone.engine_id, gone.instance_id) for gone in noted.left] == [("mock", info.instance_id)]


async def until(holds: Any) -> None:
    """Return when it holds."""
    async with asyncio.timeout(SECONDS):
        while not holds():
            await asyncio.sleep(0.02)


class Process:
    """The mock engine as a process of its own."""

    def __init__(self, place: Path) -> None:
        self._place = place
        self.target = f"unix:{place}/p.sock"
        self.process: asyncio.subprocess.Process | None = None

    async def __aenter__(self) -> Process:
        options = {"listen": self.target, "data-dir": f"{self._place}/p", "node-id": NODE_A, "registry": ""}
        self.process = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-m", "services.engines.mock"),
            *(f"--{name}={value}" for name, value in options.items()),
            stderr=asyncio.subprocess.DEVNULL,
        )
        return self

    async def __aexit__(self, *exc: object) -> None:
        if self.process is not None and self.process.returncode is None:
            await self.end(signal.SIGKILL)

    async def end(self, number: signal.Signals) -> int:
        """Send a signal and wait; returns the exit code."""
        if self.process is None:
            raise RuntimeError("it does not run")
        os.kill(self.process.pid, number)
        async with asyncio.timeout(SECONDS):
            return await self.process.wait()


async def test_workloads_survive_the_killing_of_the_process(place: Path) -> None:
    """After SIGKILL a new process finds the same components, manifest and lines."""
    async with Process(place) as first, connect(first.target) as channel:
        await until_serving(channel)
        before = await EngineServiceStub(channel).DeployWorkload(DEPLOY, timeout=SECONDS)
        await first.end(signal.SIGKILL)
    async with Process(place) as second, connect(second.target) as channel:
        await until_serving(channel)
        stub = EngineServiceStub(channel)
        after = await stub.GetWorkload(pb.GetWorkloadRequest(workload_id=WORKLOAD), timeout=SECONDS)
        assert after.workload.components == before.workload.components
        manifest = await stub.GetWorkloadManifest(pb.GetWorkloadManifestRequest(workload_id=WORKLOAD), timeout=SECONDS)
        assert manifest.manifest.content == POD
        assert (await stub.DeployWorkload(DEPLOY, timeout=SECONDS)).action == tpb.CHANGE_ACTION_NONE
        assert await second.end(signal.SIGTERM) == 0


async def test_sigterm_ends_open_watches_and_the_process_at_once(place: Path) -> None:
    """An open watch hears UNAVAILABLE ENGINE_STOPPING and does not hold up the exit; the socket's clients see it go."""
    async with Process(place) as process, connect(process.target) as channel:
        await until_serving(channel)
        watch = EngineServiceStub(channel).WatchWorkloads(pb.WatchWorkloadsRequest(), timeout=60)
        assert (await anext(aiter(watch))).type == tpb.WATCH_EVENT_TYPE_SYNCED
        began = time.monotonic()
        reading = asyncio.ensure_future(refusal(aiter(watch)))
        assert await process.end(signal.SIGTERM) == 0
        assert time.monotonic() - began < 2.5
        error: BeemeshError = await reading
        assert (type(error), error.reason) == (Unavailable, "ENGINE_STOPPING")
        assert isinstance(
            await refusal(EngineServiceStub(channel).GetEngineInfo(pb.GetEngineInfoRequest(), timeout=1)), BeemeshError
        )


async def test_a_health_watch_ends_with_draining(place: Path) -> None:
    """Who watches health learns that the engine stops before the stream ends."""
    states: list[int] = []
    async with asyncio.TaskGroup() as group, mock_engine(place) as client:
        watch = client.engine.WatchEngineHealth(pb.WatchEngineHealthRequest(), timeout=SECONDS)
        heard = asyncio.Event()
        group.create_task(follow(watch, states, heard))
        await heard.wait()
    assert states[-1] == pb.ENGINE_HEALTH_STATE_DRAINING


async def follow(watch: Any, states: list[int], heard: asyncio.Event) -> None:
    """Note each state until the stream ends."""
    try:
        async for message in watch:
            states.append(message.health.state)
            heard.set()
    except (grpc.aio.AioRpcError, asyncio.CancelledError):
        return
