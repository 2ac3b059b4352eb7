"""The node's provider service over gRPC: who we are, and what the DHT says of us."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

import grpc
from beemesh.provider.v1 import provider_service_pb2 as provider_pb
from beemesh.provider.v1 import provider_service_pb2_grpc as provider_grpc

from services.errors import BeemeshError
from services.rpc.client import connect
from services.rpc.deadline import budget
from services.rpc.errors import translated
from services.telemetry import Log

log = Log(__name__)

_SECONDS = 5.0


class GrpcProviders:
    """Implements `ports.Providers`."""

    def __init__(self, target: str) -> None:
        self.channel: grpc.aio.Channel = connect(target, files=[provider_pb.DESCRIPTOR])
        self._stub = provider_grpc.ProviderServiceStub(self.channel)

    async def node_id(self) -> str:
        """This node's id, from who keeps its key; asked until it answers."""
        while True:
            try:
                with translated():
                    answer = await self._stub.GetNodeIdentity(
                        provider_pb.GetNodeIdentityRequest(), timeout=budget(_SECONDS)
                    )
            except BeemeshError as error:
                log.warning("provider_unreachable", error=repr(error))
                await asyncio.sleep(0.2)
                continue
            return answer.node_id

    async def announce(self, manifest_id: str, metadata: Mapping[str, str]) -> None:
        """Make the DHT say that this node runs it; a repeat renews."""
        request = provider_pb.AnnounceProviderRequest(manifest_id=manifest_id, metadata=metadata)
        with translated():
            await self._stub.AnnounceProvider(request, timeout=budget(_SECONDS))

    async def withdraw(self, manifest_id: str) -> None:
        """Make the DHT say it no more."""
        request = provider_pb.StopProvidingRequest(manifest_id=manifest_id, allow_missing=True)
        with translated():
            await self._stub.StopProviding(request, timeout=budget(_SECONDS))
