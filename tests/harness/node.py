"""A whole node in this process: every service on Unix sockets of its own, each stopped and started at will."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
from beemesh.engine.v1 import engine_service_pb2_grpc as engine_grpc
from beemesh.engine.v1 import mock_engine_service_pb2_grpc as mock_grpc
from beemesh.orchestrator.v1 import orchestrator_service_pb2 as orchestrator_pb
from beemesh.orchestrator.v1 import orchestrator_service_pb2_grpc as orchestrator_grpc
from beemesh.provider.v1 import provider_service_pb2_grpc as provider_grpc
from beemesh.registry.v1 import registry_service_pb2 as registry_pb
from beemesh.registry.v1 import registry_service_pb2_grpc as registry_grpc

from services.engines.mock.service import serve as serve_mock
from services.engines.mock.settings import MockSettings
from services.orchestrator.__main__ import serve as serve_orchestrator
from services.orchestrator.settings import Settings as OrchestratorSettings
from services.provider.__main__ import serve as serve_provider
from services.provider.settings import Settings as ProviderSettings
from services.registry.__main__ import serve as serve_registry
from services.registry.settings import Settings as RegistrySettings
from services.rpc.client import connect

SERVICES = ("registry", "provider", "mock", "orchestrator")


class LocalNode:
    """Registry, provider, mock engine and orchestrator; `async with local_node(directory)` starts all four."""

    def __init__(self, directory: Path, tasks: asyncio.TaskGroup, *, public: str = "") -> None:
        self.directory = directory
        """Sockets, and a data directory for each service."""
        self._tasks = tasks
        self._public = public
        self._running: dict[str, tuple[asyncio.Task[None], asyncio.Event]] = {}
        self._channels = {name: connect(self.target(name)) for name in SERVICES}
        self.orchestrator = orchestrator_grpc.OrchestratorServiceStub(self.channel("orchestrator"))
        self.registry = registry_grpc.RegistryServiceStub(self.channel("registry"))
        self.provider = provider_grpc.ProviderServiceStub(self.channel("provider"))
        self.engine = engine_grpc.EngineServiceStub(self.channel("mock"))
        self.mock = mock_grpc.MockEngineServiceStub(self.channel("mock"))

    def target(self, name: str) -> str:
        """Where a service listens."""
        return f"unix:{self.directory}/{name}.sock"

    def channel(self, name: str) -> grpc.aio.Channel:
        """A channel to a service; it survives the service's restarts."""
        return self._channels[name]

    @property
    def token(self) -> str:
        """The public port's token."""
        return (self.directory / "token").read_text().strip()

    def start(self, name: str) -> None:
        """Start a service."""
        stop = asyncio.Event()
        self._running[name] = (self._tasks.create_task(_awaited(self._serve(name)(stop)), name=name), stop)

    async def stop(self, name: str) -> None:
        """Stop a service as SIGTERM does."""
        task, stop = self._running.pop(name)
        stop.set()
        await task

    async def cut(self, name: str) -> None:
        """End a service in mid-step: whatever it was doing is not finished."""
        task, _ = self._running.pop(name)
        task.cancel()
        await asyncio.wait([task])

    async def ready(self) -> None:
        """Wait until the orchestrator answers and the mock engine can be chosen."""
        async with asyncio.timeout(20):
            while not await self._mock_is_available():
                await asyncio.sleep(0.02)
            await self.orchestrator.ListDeployments(
                orchestrator_pb.ListDeploymentsRequest(), timeout=10, wait_for_ready=True
            )

    async def _mock_is_available(self) -> bool:
        """An engine that was cut a few times is SUSPECT for a while: it can still be chosen."""
        answer = await self.registry.ListEngines(registry_pb.ListEnginesRequest(), timeout=10, wait_for_ready=True)
        usable = (registry_pb.Engine.AVAILABILITY_AVAILABLE, registry_pb.Engine.AVAILABILITY_SUSPECT)
        return any(engine.engine_id == "mock" and engine.availability in usable for engine in answer.engines)

    async def close(self) -> None:
        """Stop all, last started first."""
        for name in reversed(list(self._running)):
            await self.stop(name)
        for channel in self._channels.values():
            await channel.close()

    def _serve(self, name: str) -> Callable[[asyncio.Event], Awaitable[None]]:
        data, listen = self.directory / name, self.target(name)
        if name == "registry":
            registry = RegistrySettings(listen=listen, data_dir=data)
            return lambda stop: serve_registry(registry, stop)
        if name == "provider":
            provider = ProviderSettings(listen=listen, data_dir=data, dht_listen="127.0.0.1:0")
            return lambda stop: serve_provider(provider, stop, clock=time.time)
        if name == "mock":
            mock = MockSettings(
                listen=listen,
                data_dir=str(data),
                registry=self.target("registry"),
                provider=self.target("provider"),
                probe_interval=0.2,
                poll_interval=0.2,
            )
            return lambda stop: serve_mock(mock, stop)
        settings = OrchestratorSettings(
            listen=listen,
            data_dir=data,
            public=self._public,
            token_file=self.directory / "token",
            registry=self.target("registry"),
            provider=self.target("provider"),
            cpu=64,
            memory=64 << 30,
        )
        return lambda stop: serve_orchestrator(settings, stop)


@asynccontextmanager
async def local_node(directory: Path, *, public: str = "") -> AsyncIterator[LocalNode]:
    """A node with its data and sockets in `directory`; `public`: the TCP address of the public port, or none."""
    async with asyncio.TaskGroup() as tasks:
        node = LocalNode(directory, tasks, public=public)
        try:
            for name in SERVICES:
                node.start(name)
            await node.ready()
            yield node
        finally:
            await node.close()


async def _awaited(work: Awaitable[None]) -> None:
    await work
