"""The bare chain: an apply's calls without the apply. `python -m bench.bare ROLE SOCKET [SOCKET…]` serves one part.

The same messages over the same stack (grpc.aio, uvloop, Unix sockets): client → orchestrator → registry, engine,
provider, one after the other. Nothing is parsed, chosen, kept or run.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import uvloop
from beemesh.engine.v1 import engine_service_pb2 as engine_pb
from beemesh.engine.v1 import engine_service_pb2_grpc as engine_grpc
from beemesh.orchestrator.v1 import orchestrator_service_pb2 as pb
from beemesh.orchestrator.v1 import orchestrator_service_pb2_grpc as pb_grpc
from beemesh.provider.v1 import provider_service_pb2 as provider_pb
from beemesh.provider.v1 import provider_service_pb2_grpc as provider_grpc
from beemesh.registry.v1 import registry_service_pb2 as registry_pb
from beemesh.registry.v1 import registry_service_pb2_grpc as registry_grpc

from bench import machine
from scripts.local_node import REPOSITORY

LEAVES = ("registry", "engine", "provider")
_CALL_SECONDS = 30.0
_START_SECONDS = 30.0


class Registry(registry_grpc.RegistryServiceServicer):
    """Names an engine."""

    async def ListEngines(self, request: registry_pb.ListEnginesRequest, context: Any) -> Any:  # noqa: N802
        """Always the same."""
        return registry_pb.ListEnginesResponse(engines=[registry_pb.Engine(engine_id="mock")])


class Engine(engine_grpc.EngineServiceServicer):
    """Takes a manifest."""

    async def DeployWorkload(self, request: engine_pb.DeployWorkloadRequest, context: Any) -> Any:  # noqa: N802
        """And does nothing with it."""
        return engine_pb.DeployWorkloadResponse()


class Provider(provider_grpc.ProviderServiceServicer):
    """Takes an announcement."""

    async def AnnounceProvider(self, request: provider_pb.AnnounceProviderRequest, context: Any) -> Any:  # noqa: N802
        """And does nothing with it."""
        return provider_pb.AnnounceProviderResponse()


class Orchestrator(pb_grpc.OrchestratorServiceServicer):
    """Calls the three."""

    def __init__(self, registry: str, engine: str, provider: str) -> None:
        self._registry = registry_grpc.RegistryServiceStub(grpc.aio.insecure_channel(registry))
        self._engine = engine_grpc.EngineServiceStub(grpc.aio.insecure_channel(engine))
        self._provider = provider_grpc.ProviderServiceStub(grpc.aio.insecure_channel(provider))

    async def ApplyManifest(self, request: pb.ApplyManifestRequest, context: Any) -> Any:  # noqa: N802
        """One call to each."""
        name = request.deployment_id
        await self._registry.ListEngines(registry_pb.ListEnginesRequest(), timeout=_CALL_SECONDS)
        deploy = engine_pb.DeployWorkloadRequest(workload_id=name, manifest_id=name, manifest=request.manifest)
        await self._engine.DeployWorkload(deploy, timeout=_CALL_SECONDS)
        announce = provider_pb.AnnounceProviderRequest(manifest_id=name, metadata={"runtime_engine": "mock"})
        await self._provider.AnnounceProvider(announce, timeout=_CALL_SECONDS)
        return pb.ApplyManifestResponse(deployment=pb.Deployment(deployment_id=name, state=pb.DEPLOYMENT_STATE_ACTIVE))


async def _serve(role: str, listen: str, downstream: list[str]) -> None:
    """Each servicer has the one method that is called; the stubs would have them all, hence the ignores."""
    server = grpc.aio.server()
    match role:
        case "registry":
            registry_grpc.add_RegistryServiceServicer_to_server(Registry(), server)  # type: ignore[abstract]
        case "engine":
            engine_grpc.add_EngineServiceServicer_to_server(Engine(), server)  # type: ignore[abstract]
        case "provider":
            provider_grpc.add_ProviderServiceServicer_to_server(Provider(), server)  # type: ignore[abstract]
        case _:
            pb_grpc.add_OrchestratorServiceServicer_to_server(Orchestrator(*downstream), server)  # type: ignore[abstract]
    server.add_insecure_port(listen)
    await server.start()
    await server.wait_for_termination()


@contextmanager
def chain(*, cores: set[int]) -> Iterator[str]:
    """The four processes on these cores; gives the target of the orchestrator."""
    running: list[subprocess.Popen[bytes]] = []
    with tempfile.TemporaryDirectory(prefix="bare-") as directory:
        target = {role: f"unix:{directory}/{role}.sock" for role in (*LEAVES, "orchestrator")}
        try:
            with machine.on(cores):
                running += [_start(role, target[role]) for role in LEAVES]
                running.append(_start("orchestrator", target["orchestrator"], *(target[role] for role in LEAVES)))
            _await_sockets([Path(address.removeprefix("unix:")) for address in target.values()])
            yield target["orchestrator"]
        finally:
            for process in running:
                process.terminate()
                process.wait(10)


def _start(role: str, *sockets: str) -> subprocess.Popen[bytes]:
    """In a session of its own, as a node starts its services: the kernel shares a busy core out by session."""
    command = [sys.executable, "-m", "bench.bare", role, *sockets]
    return subprocess.Popen(command, cwd=REPOSITORY, start_new_session=True)


def _await_sockets(paths: list[Path]) -> None:
    until = time.monotonic() + _START_SECONDS
    while not all(path.exists() for path in paths):
        if time.monotonic() > until:
            raise TimeoutError("the bare chain did not start")
        time.sleep(0.05)


if __name__ == "__main__":
    role, listen, *downstream = sys.argv[1:]
    uvloop.run(_serve(role, listen, downstream))
