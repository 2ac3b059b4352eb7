"""A plain synchronous client of a node, as one might write it from the contract alone; for the demo and for tests."""

from __future__ import annotations

from typing import Any, Self

import grpc
from beemesh.engine.v1.engine_service_pb2_grpc import EngineServiceStub
from beemesh.engine.v1.mock_engine_service_pb2_grpc import MockEngineServiceStub
from beemesh.orchestrator.v1.orchestrator_service_pb2_grpc import OrchestratorServiceStub
from beemesh.provider.v1.provider_service_pb2_grpc import ProviderServiceStub
from beemesh.registry.v1.registry_service_pb2_grpc import RegistryServiceStub

CALL_SECONDS = 30.0


class Client:
    """All services of a node at one address: `host:port` with its token, or `unix:/path`."""

    def __init__(self, address: str, *, token: str = "") -> None:
        channel: Any = grpc.insecure_channel(address)  # the stubs are typed for asyncio only, and serve both
        self._channel = channel
        self._metadata = (("authorization", f"Bearer {token}"),) if token else ()
        self.orchestrator = OrchestratorServiceStub(channel)
        self.registry = RegistryServiceStub(channel)
        self.provider = ProviderServiceStub(channel)
        self.engine = EngineServiceStub(channel)
        self.mock = MockEngineServiceStub(channel)

    def call(self, method: Any, request: Any, *, engine: str = "", seconds: float = CALL_SECONDS) -> Any:
        """One call; `engine` names the one that the port relays it to. Raises grpc.RpcError."""
        relay = (("beemesh-engine", engine),) if engine else ()
        return method(request, timeout=seconds, metadata=self._metadata + relay)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self._channel.close()
