"""ProviderService: translates requests, asks the announcer or the catalogue, translates back."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any

from beemesh.provider.v1 import provider_service_pb2 as pb
from beemesh.provider.v1 import provider_service_pb2_grpc as pb_grpc
from beemesh.type.v1 import types_pb2

from services.errors import NotFound, PermissionDenied
from services.provider import applied, discovery, metadata, wire
from services.provider.announcer import Announcement, Announcer
from services.provider.catalogue import Catalogue, candidate, provider_name
from services.provider.records import TTL_MAX_MS, TTL_MIN_MS, Kind
from services.provider.store import Holding
from services.rpc import convert
from services.rpc.listing import paginate
from services.rpc.watch import Event

_DISCOVERY_SECONDS_MAX = 300.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Traffic:
    """What the DHT node counted since it started."""

    listen_address: str
    peers: int
    sent: int
    received: int
    rejected: int


class Servicer(pb_grpc.ProviderServiceServicer):
    """Every RPC of the contract.

    While the node is alone no record goes anywhere: replica counts are zero, and what is known here is complete.
    """

    def __init__(
        self, *, announcer: Announcer, catalogue: Catalogue, traffic: Callable[[], Traffic], default_ttl_seconds: float
    ) -> None:
        self._announcer = announcer
        self._catalogue = catalogue
        self._traffic = traffic
        self._default_ttl_seconds = default_ttl_seconds

    async def GetNodeIdentity(self, request: pb.GetNodeIdentityRequest, context: Any) -> pb.GetNodeIdentityResponse:
        """Who this node is."""
        return pb.GetNodeIdentityResponse(node_id=self._announcer.node_id, public_key=self._announcer.public_key)

    async def AnnounceProvider(self, request: pb.AnnounceProviderRequest, context: Any) -> pb.AnnounceProviderResponse:
        """Durable when answered."""
        subject = wire.manifest_id(request.manifest_id)
        entries = dict(request.metadata)
        metadata.check(entries)
        holding = await self._announcer.announce(
            Announcement(
                kind=Kind.PROVIDER,
                subject=subject,
                metadata=entries,
                ttl_ms=self._ttl_ms(request),
                request_id=request.request_id,
            )
        )
        interval = convert.duration(holding.record.ttl_ms / 3000)
        return pb.AnnounceProviderResponse(
            provider=wire.from_provider(holding), renew_interval=interval, replicas=pb.ReplicaCount()
        )

    async def StopProviding(self, request: pb.StopProvidingRequest, context: Any) -> pb.StopProvidingResponse:
        """The tombstone is durable when answered."""
        await self._announcer.withdraw(wire.manifest_id(request.manifest_id), allow_missing=request.allow_missing)
        return pb.StopProvidingResponse()

    async def DiscoverProviders(
        self, request: pb.DiscoverProvidersRequest, context: Any
    ) -> pb.DiscoverProvidersResponse:
        """Live ones, best first."""
        _check_timeout(request)
        found = self._catalogue.discover(
            wire.manifest_id(request.manifest_id),
            wire.to_selector(request.selector),
            limit=wire.limit(request.max_results),
        )
        return pb.DiscoverProvidersResponse(providers=map(wire.from_provider, found), complete=True)

    async def GetProvider(self, request: pb.GetProviderRequest, context: Any) -> pb.GetProviderResponse:
        """One that is known here."""
        manifest_id, node_id = wire.to_provider_name(request.name, own=self._announcer.node_id)
        holding = self._catalogue.find(Kind.PROVIDER, manifest_id, node_id)
        if holding is None:
            raise NotFound(
                f"no live announcement of manifest {manifest_id!r} by node {node_id} is known here",
                reason="PROVIDER_NOT_FOUND",
                metadata={"manifest_id": manifest_id, "node_id": node_id},
            )
        return pb.GetProviderResponse(provider=wire.from_provider(holding))

    async def ListProviders(self, request: pb.ListProvidersRequest, context: Any) -> pb.ListProvidersResponse:
        """By name, in pages."""
        found = self._catalogue.providers(
            wire.to_selector(request.selector), foreign=request.include_remote, expired=request.show_expired
        )
        page, token = paginate(
            found,
            key=lambda holding: provider_name(holding.record),
            page_size=request.page_size,
            page_token=request.page_token,
        )
        return pb.ListProvidersResponse(providers=map(wire.from_provider, page), next_page_token=token)

    async def WatchProviders(
        self, request: pb.WatchProvidersRequest, context: Any
    ) -> AsyncIterator[pb.WatchProvidersResponse]:
        """Snapshot, SYNCED, changes."""
        wanted = wire.to_selector(request.selector)
        subject = wire.manifest_id(request.manifest_id) if request.manifest_id else ""

        def match(holding: Holding) -> bool:
            return subject in ("", holding.record.subject) and discovery.fits(candidate(holding), wanted)

        events = self._catalogue.watch(resume_token=request.resume_token, match=match)
        try:
            async for event in events:
                yield _from_event(event)
        finally:
            await events.aclose()

    async def AnnounceNode(self, request: pb.AnnounceNodeRequest, context: Any) -> pb.AnnounceNodeResponse:
        """A lease: it ends unless whoever serves the endpoint renews it."""
        own = self._announcer.node_id
        self._check_owner(request.node.node_id)
        holding = await self._announcer.announce(
            Announcement(
                kind=Kind.NODE,
                subject=own,
                metadata=wire.to_node_metadata(request.node),
                address=request.node.endpoint,
                ttl_ms=self._ttl_ms(request),
                kept=False,
            )
        )
        return pb.AnnounceNodeResponse(node=wire.from_node(holding), replicas=pb.ReplicaCount())

    async def DiscoverNodes(self, request: pb.DiscoverNodesRequest, context: Any) -> pb.DiscoverNodesResponse:
        """Live ones, best first; an engine is found among a node's capabilities."""
        _check_timeout(request)
        wanted = wire.to_selector(request.selector)
        found = self._catalogue.discover_nodes(wanted, limit=wire.limit(request.max_results))
        return pb.DiscoverNodesResponse(nodes=map(wire.from_node, found), complete=True)

    async def StoreAppliedManifest(
        self, request: pb.StoreAppliedManifestRequest, context: Any
    ) -> pb.StoreAppliedManifestResponse:
        """Kept and renewed until StopProviding withdraws it."""
        message = request.applied_manifest
        self._check_owner(message.node_id)
        subject = wire.manifest_id(message.manifest_id)
        await self._announcer.announce(
            Announcement(
                kind=Kind.APPLIED,
                subject=subject,
                metadata=applied.to_metadata(message, now_ms=self._catalogue.now_ms()),
                ttl_ms=self._ttl_ms(request),
            )
        )
        return pb.StoreAppliedManifestResponse(replicas=pb.ReplicaCount())

    async def GetAppliedManifest(
        self, request: pb.GetAppliedManifestRequest, context: Any
    ) -> pb.GetAppliedManifestResponse:
        """The newest one; nothing unverified is ever held."""
        subject = wire.manifest_id(request.manifest_id)
        holding = self._catalogue.newest(Kind.APPLIED, subject)
        if holding is None:
            raise NotFound(
                f"no applied-manifest record of {subject!r} is known here",
                reason="APPLIED_MANIFEST_NOT_FOUND",
                metadata={"manifest_id": subject},
            )
        return pb.GetAppliedManifestResponse(applied_manifest=applied.from_record(holding.record))

    async def GetDhtStatus(self, request: pb.GetDhtStatusRequest, context: Any) -> pb.GetDhtStatusResponse:
        """Measured, not assumed."""
        traffic = self._traffic()
        count, size = self._catalogue.counts()
        renewed = self._announcer.last_renewal_ms
        return pb.GetDhtStatusResponse(
            node_id=self._announcer.node_id,
            listen_address=traffic.listen_address,
            peer_count=traffic.peers,
            stored_record_count=count,
            stored_bytes=size,
            local_record_count=self._announcer.own_count(),
            last_republish_time=None if renewed is None else convert.timestamp(renewed / 1000),
            requests_sent=traffic.sent,
            requests_received=traffic.received,
            rejected_count=traffic.rejected,
        )

    def _ttl_ms(
        self, request: pb.AnnounceProviderRequest | pb.AnnounceNodeRequest | pb.StoreAppliedManifestRequest
    ) -> int:
        if not request.HasField("ttl"):
            return int(self._default_ttl_seconds * 1000)
        low, high = TTL_MIN_MS / 1000, TTL_MAX_MS / 1000
        return int(convert.from_duration(request.ttl, field="ttl", low=low, high=high) * 1000)

    def _check_owner(self, node_id: str) -> None:
        if node_id not in ("", self._announcer.node_id):
            raise PermissionDenied(
                f"node {node_id[:80]!r} is not this one ({self._announcer.node_id}); a node speaks only for itself",
                reason="NODE_ID_MISMATCH",
                metadata={"node_id": self._announcer.node_id},
            )


def _check_timeout(request: pb.DiscoverProvidersRequest | pb.DiscoverNodesRequest) -> None:
    """Alone there is nobody to wait for, so the timeout is only checked."""
    if request.HasField("discovery_timeout"):
        convert.from_duration(request.discovery_timeout, field="discovery_timeout", high=_DISCOVERY_SECONDS_MAX)


def _from_event(event: Event[Holding]) -> pb.WatchProvidersResponse:
    return pb.WatchProvidersResponse(
        type=types_pb2.WatchEventType.ValueType(int(event.type)),
        provider=None if event.item is None else wire.from_provider(event.item),
        reason=event.reason,
        resume_token=event.token,
    )
