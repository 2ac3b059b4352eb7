"""The node's provider service over gRPC: who we are, and what the DHT says of us."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import grpc
from beemesh.provider.v1 import provider_service_pb2 as provider_pb
from beemesh.provider.v1 import provider_service_pb2_grpc as provider_grpc

from services.errors import BeemeshError
from services.orchestrator.model import Announced
from services.rpc.client import connect
from services.rpc.convert import timestamp
from services.rpc.deadline import budget
from services.rpc.errors import translated
from services.telemetry import Log

log = Log(__name__)

_SECONDS = 5.0
_PAGE = 1000


class GrpcProviders:
    """Implements `ports.Providers`; `applied_records`: also write the applied-manifest records."""

    def __init__(self, target: str, *, applied_records: bool = True) -> None:
        self._applied_records = applied_records
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

    async def announced(self) -> Sequence[str]:
        """The manifest ids that this node announces now."""
        found: list[str] = []
        request = provider_pb.ListProvidersRequest(page_size=_PAGE)
        while True:
            with translated():
                answer = await self._stub.ListProviders(request, timeout=budget(_SECONDS))
            found += [provider.manifest_id for provider in answer.providers]
            if not answer.next_page_token:
                return found
            request = provider_pb.ListProvidersRequest(page_size=_PAGE, page_token=answer.next_page_token)

    async def announce(self, manifest_id: str, text: Announced) -> None:
        """Make the DHT say that this node runs it, in the provider record and the one that older clients read."""
        request = provider_pb.AnnounceProviderRequest(manifest_id=manifest_id, metadata=text.metadata)
        with translated():
            await self._stub.AnnounceProvider(request, timeout=budget(_SECONDS))
            if self._applied_records:
                await self._stub.StoreAppliedManifest(_applied(manifest_id, text), timeout=budget(_SECONDS))

    async def withdraw(self, manifest_id: str) -> None:
        """Make the DHT say it no more."""
        request = provider_pb.StopProvidingRequest(manifest_id=manifest_id, allow_missing=True)
        with translated():
            await self._stub.StopProviding(request, timeout=budget(_SECONDS))


def _applied(manifest_id: str, text: Announced) -> provider_pb.StoreAppliedManifestRequest:
    record = provider_pb.AppliedManifest(
        manifest_id=manifest_id,
        manifest_digest=text.digest,
        kind=text.kind,
        owner=text.owner,
        runtime_engine=text.engine_id,
        apply_time=timestamp(text.apply_time),
    )
    return provider_pb.StoreAppliedManifestRequest(applied_manifest=record)
