"""The provider over a real socket, its DHT over loopback, and its process killed."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import msgpack  # type: ignore[import-untyped]  # no stubs are published
import pytest
from beemesh.provider.v1 import provider_service_pb2 as pb
from beemesh.provider.v1.provider_service_pb2_grpc import ProviderServiceStub
from beemesh.type.v1 import types_pb2
from google.protobuf.duration_pb2 import Duration
from kademlia.network import Server as StockServer

from services.errors import (
    BeemeshError,
    DataLoss,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    PermissionDenied,
    Unavailable,
    Unimplemented,
)
from services.identity import manifest_key, node_id
from services.provider import records
from services.provider.__main__ import serve
from services.provider.node_key import NodeKey
from services.provider.records import Kind
from services.provider.settings import Settings
from services.rpc.client import connect
from services.rpc.errors import from_rpc_error, translated

SNAPSHOT, SYNCED = types_pb2.WATCH_EVENT_TYPE_SNAPSHOT, types_pb2.WATCH_EVENT_TYPE_SYNCED
ADDED, UPDATED = types_pb2.WATCH_EVENT_TYPE_ADDED, types_pb2.WATCH_EVENT_TYPE_UPDATED
REMOVED = types_pb2.WATCH_EVENT_TYPE_REMOVED
METADATA = {
    "runtime_engine": "podman",
    "workload_id": "beemesh-web-0123abcd",
    "node_type": "beemesh-machine",
    "capabilities": "podman,docker",
    "resource.cpu": "4",
    "resource.memory": "8GB",
}
DIGEST = "sha256:" + "0" * 64
PATIENCE = 10.0


class Clock:
    """The wall clock, moved forward by hand."""

    def __init__(self) -> None:
        self.ahead = 0.0

    def __call__(self) -> float:
        return time.time() + self.ahead


class Neighbour:
    """Another node's key, and the records it signs; it speaks to the provider as a stock client over UDP."""

    def __init__(self, server: StockServer, address: tuple[str, int], now: Callable[[], float]) -> None:
        self.server = server
        self.address = address
        self.key = NodeKey.generate()
        self._now = now

    def sign(self, manifest: str = "web", **more: Any) -> records.Record:
        now_ms = int(self._now() * 1000)
        facts: dict[str, Any] = {"seq": now_ms, "issued_ms": now_ms, "ttl_ms": 900_000, "metadata": METADATA} | more
        return records.make(
            kind=Kind.PROVIDER, subject=manifest, public_key=self.key.public_key, sign=self.key.sign, **facts
        )

    async def call(self, name: str, *arguments: object) -> Any:
        answered, value = await getattr(self.server.protocol, name)(self.address, *arguments)
        assert answered, f"{name} was not answered"
        return value

    async def add(self, *made: records.Record, key: bytes | None = None) -> Any:
        where = made[0].key if key is None else key
        page = await self.call("get_providers", where, b"", [])
        return await self.call("add_provider", where, page["token"], [record.packet for record in made])


class Provider:
    """A provider that serves, and a client of it."""

    def __init__(self, settings: Settings, clock: Clock, channel: grpc.aio.Channel) -> None:
        self.settings = settings
        self.clock = clock
        self.channel = channel
        self.stub = ProviderServiceStub(channel)

    async def announce(self, manifest: str = "web", **entries: str) -> pb.Provider:
        changed = {key.replace("__", "."): value for key, value in entries.items()}
        request = pb.AnnounceProviderRequest(manifest_id=manifest, metadata=METADATA | changed)
        return (await self.stub.AnnounceProvider(request, timeout=PATIENCE)).provider

    async def stop(self, manifest: str = "web", *, allow_missing: bool = False) -> None:
        request = pb.StopProvidingRequest(manifest_id=manifest, allow_missing=allow_missing)
        await self.stub.StopProviding(request, timeout=PATIENCE)

    async def discover(self, manifest: str = "web", **selector: Any) -> list[pb.Provider]:
        request = pb.DiscoverProvidersRequest(manifest_id=manifest, selector=pb.ProviderSelector(**selector))
        response = await self.stub.DiscoverProviders(request, timeout=PATIENCE)
        assert response.complete
        assert not response.unreachable_peers
        return list(response.providers)

    async def status(self) -> pb.GetDhtStatusResponse:
        return await self.stub.GetDhtStatus(pb.GetDhtStatusRequest(), timeout=PATIENCE)

    @asynccontextmanager
    async def neighbour(self) -> AsyncIterator[Neighbour]:
        host, _, port = (await self.status()).listen_address.rpartition(":")
        server = StockServer()
        await server.listen(0, "127.0.0.1")
        try:
            yield Neighbour(server, (host, int(port)), self.clock)
        finally:
            server.stop()
            await asyncio.sleep(0)


def made_for(directory: Path, **changed: Any) -> Settings:
    """Settings that keep all in `directory` and take any free port."""
    facts: dict[str, Any] = {"listen": f"unix:{directory}/p.sock", "data_dir": directory / "data"}
    return Settings(**facts | {"dht_listen": "127.0.0.1:0"} | changed)


@asynccontextmanager
async def running(directory: Path, *, clock: Clock | None = None, **changed: Any) -> AsyncIterator[Provider]:
    """A provider in this process, serving on a Unix socket and a free UDP port."""
    clock, stop = clock or Clock(), asyncio.Event()
    settings = made_for(directory, **{"drain_seconds": 0.2} | changed)
    async with asyncio.TaskGroup() as group:
        group.create_task(serve(settings, stop, clock=clock))
        try:
            async with connect(settings.listen, files=[pb.DESCRIPTOR]) as channel:
                async with asyncio.timeout(PATIENCE):
                    await channel.channel_ready()
                yield Provider(settings, clock, channel)
        finally:
            stop.set()


@pytest.fixture
async def provider(tmp_path: Path) -> AsyncIterator[Provider]:
    async with running(tmp_path) as running_:
        yield running_


async def refused(call: Awaitable[object]) -> BeemeshError:
    """The error that a call ends with."""
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await call
    return from_rpc_error(raised.value)


async def failed_start(directory: Path, **changed: Any) -> BeemeshError:
    """The error that a start ends with."""
    try:
        async with asyncio.timeout(PATIENCE):
            await serve(made_for(directory, **changed), asyncio.Event())
    except BeemeshError as error:
        return error
    except BaseExceptionGroup as group:
        (only,) = group.exceptions
        if isinstance(only, BeemeshError):
            return only
        raise
    raise AssertionError("it served until it was stopped")


# Announcing, finding, stopping


async def test_the_node_tells_who_it_is(provider: Provider) -> None:
    """The node id is the hash of the public key."""
    answer = await provider.stub.GetNodeIdentity(pb.GetNodeIdentityRequest(), timeout=PATIENCE)
    assert len(answer.public_key) == 32
    assert answer.node_id == node_id(answer.public_key)


async def test_what_is_announced_is_found_with_typed_facts(provider: Provider) -> None:
    """An announcement is found at once, its typed fields read from the six keys, alone without replicas."""
    request = pb.AnnounceProviderRequest(manifest_id="web", metadata=METADATA | {"zone": "eu"})
    answer = await provider.stub.AnnounceProvider(request, timeout=PATIENCE)
    assert answer.renew_interval.ToSeconds() == 300
    assert answer.replicas == pb.ReplicaCount()
    (found,) = await provider.discover()
    assert found == answer.provider
    assert found.name == f"manifests/web/providers/{found.node_id}"
    assert (found.runtime_engine, found.workload_id) == ("podman", "beemesh-web-0123abcd")
    assert list(found.capabilities) == ["podman", "docker"]
    assert (found.resources.cpu_cores, found.resources.memory_bytes) == (4.0, 8_000_000_000)
    assert dict(found.metadata) == METADATA | {"zone": "eu"}
    assert found.locality == pb.Provider.LOCALITY_LOCAL
    assert found.expire_time.ToSeconds() - found.announce_time.ToSeconds() == 900
    assert await provider.discover("other") == []


@pytest.mark.parametrize(
    ("selector", "hits"),
    [
        ({"runtime_engines": ["podman"]}, True),
        ({"runtime_engines": ["vm"]}, False),
        ({"capabilities": ["podman", "docker"]}, True),
        ({"capabilities": ["podman", "qemu"]}, False),
        ({"min_resources": types_pb2.Resources(cpu_cores=4, memory_bytes=8_000_000_000)}, True),
        ({"min_resources": types_pb2.Resources(cpu_cores=4.1)}, False),
        ({"min_resources": types_pb2.Resources(memory_bytes=8_000_000_001)}, False),
        ({"metadata": {"workload_id": "beemesh-web-0123abcd"}}, True),
        ({"metadata": {"workload_id": "beemesh-web"}}, False),
    ],
    ids=str,
)
async def test_each_filter_decides(provider: Provider, selector: dict[str, Any], hits: bool) -> None:
    """Engines, capabilities, resources and metadata each let through what fits and nothing else."""
    await provider.announce()
    assert bool(await provider.discover(**selector)) is hits


async def test_providers_of_several_nodes_come_best_first(provider: Provider) -> None:
    """Freest, then freshest; what does not fit is left out; max_results cuts; learned ones say so."""
    own = await provider.announce()
    async with provider.neighbour() as small, provider.neighbour() as large, provider.neighbour() as fresh:
        little = small.sign(metadata=METADATA | {"resource.cpu": "1"})
        assert await small.add(little) == [["ok", little.seq]]
        await large.add(large.sign(metadata=METADATA | {"resource.cpu": "16"}))
        await fresh.add(fresh.sign())
        found = await provider.discover()
        order = [large.key.node_id, fresh.key.node_id, own.node_id, small.key.node_id]
        assert [p.node_id for p in found] == order
        assert [p.locality for p in found].count(pb.Provider.LOCALITY_REMOTE) == 3
        fitting = await provider.discover(min_resources=types_pb2.Resources(cpu_cores=2))
        assert [p.node_id for p in fitting] == order[:3]
        request = pb.DiscoverProvidersRequest(manifest_id="web", max_results=1)
        assert [p.node_id for p in (await provider.stub.DiscoverProviders(request)).providers] == order[:1]


async def test_a_repeat_renews(provider: Provider) -> None:
    """Announcing again moves the sequence and the expiry; the same request id does not."""
    first = await provider.announce()
    provider.clock.ahead += 60
    second = await provider.announce()
    assert second.sequence > first.sequence
    assert second.expire_time.ToSeconds() >= first.expire_time.ToSeconds() + 60
    request = pb.AnnounceProviderRequest(manifest_id="db", metadata=METADATA, request_id="r1")
    once = await provider.stub.AnnounceProvider(request, timeout=PATIENCE)
    provider.clock.ahead += 1
    assert await provider.stub.AnnounceProvider(request, timeout=PATIENCE) == once


async def test_stopped_is_gone(provider: Provider) -> None:
    """After StopProviding nothing is found; a second one is NOT_FOUND unless missing is allowed."""
    await provider.announce()
    await provider.stop()
    assert await provider.discover() == []
    error = await refused(provider.stop())
    assert isinstance(error, NotFound)
    assert error.reason == "PROVIDER_NOT_FOUND"
    await provider.stop(allow_missing=True)
    assert (await provider.announce()).sequence > 0
    assert len(await provider.discover()) == 1


async def test_one_provider_is_read_by_name(provider: Provider) -> None:
    """By full name, or this node's by the bare manifest id; a name of another form is refused."""
    own = await provider.announce()
    for name in (own.name, "web"):
        assert (await provider.stub.GetProvider(pb.GetProviderRequest(name=name), timeout=PATIENCE)).provider == own
    missing = await refused(provider.stub.GetProvider(pb.GetProviderRequest(name="db"), timeout=PATIENCE))
    assert missing.reason == "PROVIDER_NOT_FOUND"
    for name in ("", "a/b", "manifests/web/providers/xyz", "manifests/Web/providers/" + own.node_id):
        error = await refused(provider.stub.GetProvider(pb.GetProviderRequest(name=name), timeout=PATIENCE))
        assert isinstance(error, InvalidArgument), name


async def test_lists_come_in_pages(provider: Provider) -> None:
    """Pages by name hold each announcement once; learned and expired ones come when asked for."""
    for number in range(5):
        await provider.announce(f"m{number}")
    names: list[str] = []
    token = ""
    while True:
        request = pb.ListProvidersRequest(page_size=2, page_token=token)
        page = await provider.stub.ListProviders(request, timeout=PATIENCE)
        names += [p.manifest_id for p in page.providers]
        if not (token := page.next_page_token):
            break
    assert names == ["m0", "m1", "m2", "m3", "m4"]
    async with provider.neighbour() as other:
        await other.add(other.sign("zz", ttl_ms=30_000))
    assert len(await listed(provider, include_remote=True)) == 6
    assert len(await listed(provider)) == 5
    chosen = pb.ProviderSelector(metadata={"workload_id": "none"})
    assert await listed(provider, selector=chosen) == []
    provider.clock.ahead += 31
    await until(lambda: listed(provider, include_remote=True, show_expired=True), lambda found: len(found) == 6)
    assert len(await listed(provider, include_remote=True)) == 5


async def test_a_record_that_nobody_renews_expires(provider: Provider) -> None:
    """A learned record is served to the end of its TTL and not after; watchers hear of it within a second."""
    async with provider.neighbour() as other:
        await other.add(other.sign(ttl_ms=30_000))
        events = provider.stub.WatchProviders(pb.WatchProvidersRequest(manifest_id="web"), timeout=PATIENCE)
        assert (await anext(aiter(events))).type == SNAPSHOT
        assert (await anext(aiter(events))).type == SYNCED
        provider.clock.ahead += 29
        assert len(await provider.discover()) == 1
        provider.clock.ahead += 1
        began = time.monotonic()
        assert await provider.discover() == []
        event = await anext(aiter(events))
        assert time.monotonic() - began < 1.0
        assert (event.type, event.reason) == (REMOVED, "EXPIRED")
        assert event.provider.node_id == other.key.node_id
        events.cancel()


async def test_own_announcements_are_kept_up_until_stopped(provider: Provider) -> None:
    """An announcement with a short TTL is renewed by the provider itself."""
    request = pb.AnnounceProviderRequest(manifest_id="web", metadata=METADATA, ttl=Duration(seconds=30))
    first = (await provider.stub.AnnounceProvider(request, timeout=PATIENCE)).provider
    for _ in range(3):
        before = (await provider.discover())[0].sequence
        provider.clock.ahead += 16
        await until(provider.discover, partial(_is_renewed, before))
    (last,) = await provider.discover()
    assert last.announce_time.ToSeconds() > first.expire_time.ToSeconds()
    assert (await provider.status()).last_republish_time.ToSeconds() > 0


async def test_a_watch_tells_what_changes_and_why(provider: Provider) -> None:
    """Snapshot, SYNCED, then ANNOUNCED, RENEWED, WITHDRAWN; a resumed watch goes on where it was."""
    await provider.announce("old")
    events = provider.stub.WatchProviders(pb.WatchProvidersRequest(), timeout=PATIENCE)
    stream = aiter(events)
    assert [(await anext(stream)).type, (await anext(stream)).type] == [SNAPSHOT, SYNCED]
    await provider.announce()
    await provider.announce()
    await provider.stop()
    seen = [await anext(stream) for _ in range(3)]
    events.cancel()
    assert [(e.type, e.reason) for e in seen] == [(ADDED, "ANNOUNCED"), (UPDATED, "RENEWED"), (REMOVED, "WITHDRAWN")]
    resumed = provider.stub.WatchProviders(
        pb.WatchProvidersRequest(resume_token=seen[0].resume_token), timeout=PATIENCE
    )
    assert [(await anext(aiter(resumed))).reason for _ in range(2)] == ["RENEWED", "WITHDRAWN"]
    resumed.cancel()


async def test_a_watch_ends_when_the_service_stops(tmp_path: Path) -> None:
    """A stopping service ends its watches with UNAVAILABLE instead of waiting for them."""
    async with running(tmp_path, drain_seconds=5.0) as provider:
        events = provider.stub.WatchProviders(pb.WatchProvidersRequest(), timeout=PATIENCE)
        await anext(aiter(events))
        began = time.monotonic()
    assert time.monotonic() - began < 2.0


# Bad requests


@pytest.mark.parametrize(
    ("key", "value"), [("resource.cpu", "lots"), ("resource.memory", "8XB"), ("node_type", "cow"), ("a b", "c")]
)
async def test_bad_metadata_is_named_by_its_path(provider: Provider, key: str, value: str) -> None:
    """A wrong entry is INVALID_ARGUMENT with the path of its key, and nothing is announced."""
    request = pb.AnnounceProviderRequest(manifest_id="web", metadata=METADATA | {key: value})
    error = await refused(provider.stub.AnnounceProvider(request, timeout=PATIENCE))
    assert isinstance(error, InvalidArgument)
    assert error.reason == "BAD_METADATA"
    assert [v.field_path for v in error.violations] == [f"metadata[{key}]"]
    assert await provider.discover() == []


@pytest.mark.parametrize(
    ("request_", "reason"),
    [
        (pb.AnnounceProviderRequest(manifest_id="", metadata=METADATA), "BAD_MANIFEST_ID"),
        (pb.AnnounceProviderRequest(manifest_id="No/Name", metadata=METADATA), "BAD_MANIFEST_ID"),
        (pb.AnnounceProviderRequest(manifest_id="a" * 41, metadata=METADATA), "BAD_MANIFEST_ID"),
        (pb.AnnounceProviderRequest(manifest_id="web"), "BAD_METADATA"),
        (pb.AnnounceProviderRequest(manifest_id="web", metadata=METADATA, ttl=Duration(seconds=29)), "BAD_DURATION"),
        (pb.AnnounceProviderRequest(manifest_id="web", metadata=METADATA, ttl=Duration()), "BAD_DURATION"),
        (
            pb.AnnounceProviderRequest(manifest_id="web", metadata=METADATA, ttl=Duration(seconds=48 * 3600 + 1)),
            "BAD_DURATION",
        ),
        (pb.AnnounceProviderRequest(manifest_id="web", metadata=METADATA | {"x": "y" * 700}), "RECORD_TOO_LARGE"),
    ],
    ids=["no id", "bad id", "long id", "no metadata", "short ttl", "zero ttl", "long ttl", "too large"],
)
async def test_bad_announcements_are_refused(
    provider: Provider, request_: pb.AnnounceProviderRequest, reason: str
) -> None:
    """Ids, TTLs and sizes that are none are INVALID_ARGUMENT with a field, and nothing is announced."""
    error = await refused(provider.stub.AnnounceProvider(request_, timeout=PATIENCE))
    assert isinstance(error, InvalidArgument)
    assert error.reason == reason
    assert error.violations
    assert (await provider.status()).stored_record_count == 0


async def test_bad_searches_are_refused(provider: Provider) -> None:
    """A negative limit, a negative timeout, an amount that is none, a page token of nobody."""
    discover = provider.stub.DiscoverProviders
    for request in (
        pb.DiscoverProvidersRequest(manifest_id="web", max_results=-1),
        pb.DiscoverProvidersRequest(manifest_id="web", discovery_timeout=Duration(seconds=-1)),
        pb.DiscoverProvidersRequest(
            manifest_id="web", selector=pb.ProviderSelector(min_resources=types_pb2.Resources(cpu_cores=float("nan")))
        ),
        pb.DiscoverProvidersRequest(manifest_id="web", selector=pb.ProviderSelector(runtime_engines=["a b"])),
        pb.DiscoverProvidersRequest(),
    ):
        assert isinstance(await refused(discover(request, timeout=PATIENCE)), InvalidArgument), request
    listing = provider.stub.ListProviders(pb.ListProvidersRequest(page_token="!"), timeout=PATIENCE)
    assert (await refused(listing)).reason == "BAD_PAGE_TOKEN"


# Nodes and applied manifests


async def test_nodes_are_found_by_engine_capability_and_room(provider: Provider) -> None:
    """A node is announced with its endpoint and amounts, found by what it can run, and ends without renewal."""
    node = pb.Node(
        endpoint="10.0.0.1:7443",
        capabilities=["podman", "libvirt"],
        capacity=types_pb2.Resources(cpu_cores=8, memory_bytes=16 << 30),
        allocatable=types_pb2.Resources(cpu_cores=3.5, memory_bytes=8 << 30),
        metadata={"zone": "eu"},
    )
    request = pb.AnnounceNodeRequest(node=node, ttl=Duration(seconds=30))
    announced = (await provider.stub.AnnounceNode(request, timeout=PATIENCE)).node
    assert (announced.capacity, announced.allocatable) == (node.capacity, node.allocatable)
    assert (announced.endpoint, dict(announced.metadata)) == (node.endpoint, {"zone": "eu"})

    async def find(**selector: Any) -> list[pb.Node]:
        wanted = pb.DiscoverNodesRequest(selector=pb.ProviderSelector(**selector))
        return list((await provider.stub.DiscoverNodes(wanted, timeout=PATIENCE)).nodes)

    assert await find(runtime_engines=["qemu"], metadata={"zone": "eu"}) == [announced]
    assert await find(capabilities=["podman", "vm"]) == [announced]
    assert await find(min_resources=types_pb2.Resources(cpu_cores=3.5)) == [announced]
    assert await find(min_resources=types_pb2.Resources(cpu_cores=4)) == []
    assert await find(runtime_engines=["docker"]) == []
    provider.clock.ahead += 30
    assert await find() == []
    other = pb.AnnounceNodeRequest(node=pb.Node(node_id="0" * 40))
    error = await refused(provider.stub.AnnounceNode(other, timeout=PATIENCE))
    assert isinstance(error, PermissionDenied)
    assert error.reason == "NODE_ID_MISMATCH"


def applied(**more: Any) -> pb.StoreAppliedManifestRequest:
    facts: dict[str, Any] = {"manifest_id": "web", "manifest_digest": DIGEST, "kind": "Pod", "owner": "root"} | more
    return pb.StoreAppliedManifestRequest(
        applied_manifest=pb.AppliedManifest(runtime_engine="podman", labels={"app": "web"}, **facts)
    )


async def test_the_applied_manifest_is_read_by_grpc_and_by_a_stock_client(provider: Provider) -> None:
    """The signed record that GetAppliedManifest returns is what a stock client gets, and StopProviding ends it."""
    await provider.stub.StoreAppliedManifest(applied(), timeout=PATIENCE)
    read = pb.GetAppliedManifestRequest(manifest_id="web")
    found = (await provider.stub.GetAppliedManifest(read, timeout=PATIENCE)).applied_manifest
    assert (found.manifest_digest, found.kind, found.owner, dict(found.labels)) == (
        DIGEST,
        "Pod",
        "root",
        {"app": "web"},
    )
    assert abs(found.apply_time.ToSeconds() - time.time()) < 60
    async with provider.neighbour() as stock:
        await stock.server.bootstrap([stock.address])
        packet = await stock.server.get(records.applied_name("web"))
        record = records.read(packet)
        assert (record.node_id, record.signature) == (found.node_id, found.signature)
        assert await stock.server.get(records.applied_name("db")) is None
        await provider.announce()
        await provider.stop()
        assert await stock.server.get(records.applied_name("web")) is None
    gone = await refused(provider.stub.GetAppliedManifest(read, timeout=PATIENCE))
    assert gone.reason == "APPLIED_MANIFEST_NOT_FOUND"


async def test_an_applied_manifest_that_is_none_is_refused(provider: Provider) -> None:
    """No digest, no kind, content, or another node's id: refused."""
    store = provider.stub.StoreAppliedManifest
    assert (await refused(store(applied(manifest_digest="md5:0"), timeout=PATIENCE))).reason == "BAD_MANIFEST_DIGEST"
    assert (await refused(store(applied(kind=""), timeout=PATIENCE))).reason == "BAD_KIND"
    content = await refused(store(applied(content="kind: Pod"), timeout=PATIENCE))
    assert isinstance(content, FailedPrecondition)
    assert content.reason == "CONTENT_NOT_PUBLISHED"
    assert isinstance(await refused(store(applied(node_id="0" * 40), timeout=PATIENCE)), PermissionDenied)


# The wire


async def test_a_stock_clients_set_is_refused(provider: Provider) -> None:
    """A stock client's unsigned set is answered False, changes nothing, and is counted."""
    await provider.stub.StoreAppliedManifest(applied(), timeout=PATIENCE)
    async with provider.neighbour() as stock:
        await stock.server.bootstrap([stock.address])
        name = records.applied_name("web")
        before = await stock.server.get(name)
        for value in ("mine now", b"mine now", 7, "x" * 7_000):
            await stock.server.set(name, value)  # True whatever its neighbours answer: stock code's mistake
            stock.server.storage.data.clear()
            assert await stock.server.get(name) == before
            assert await stock.call("store", b"n" * 20, records.key_of(Kind.APPLIED, "web"), value) is False
    status = await provider.status()
    assert status.stored_record_count == 1
    assert status.rejected_count == 8


async def test_records_come_in_over_the_wire_only_as_their_node_signed_them(provider: Provider) -> None:
    """Over UDP a forgery, a replay, a wrong key, the future, too long a life, a list or no token are all refused."""
    async with provider.neighbour() as other:
        now_ms = int(provider.clock() * 1000)
        good = other.sign()
        assert (await other.add(good))[0][0] == "ok"
        assert (await other.add(good))[0][0] == "same"
        newer = other.sign(seq=good.seq + 10)
        await other.add(newer)
        assert await other.add(good) == [["stale", newer.seq]]
        forged = bytearray(newer.packet)
        forged[60] ^= 1
        token = (await other.call("get_providers", good.key, b"", []))["token"]

        async def send(*packets: object, to: bytes = good.key) -> Any:
            return [verdict for verdict, _ in await other.call("add_provider", to, token, list(packets))]

        assert await send(bytes(forged), b"", b"x" * 900, 5, None, [good.packet]) == ["bad"] * 6
        assert await send(other.sign("db").packet) == ["bad"]
        assert await send(other.sign(seq=newer.seq, metadata={"other": "bytes"}).packet) == ["bad"]
        future = other.sign(seq=now_ms * 2, issued_ms=now_ms + 120_000)
        assert await send(future.packet) == ["skew"]
        ended = other.sign(seq=now_ms * 2, issued_ms=now_ms - 100_000, ttl_ms=99_000)
        assert await send(ended.packet) == ["expired"]
        forever = other.sign(seq=now_ms * 2, ttl_ms=31 * 365 * 86_400_000)
        assert await send(forever.packet) == ["bad"]
        assert "token" in await other.call("add_provider", manifest_key("db"), token, [other.sign("db").packet])
        (found,) = await provider.discover()
        assert found.sequence == newer.seq
        assert found.last_seen_time.ToSeconds() > 0


async def test_holders_give_out_what_they_hold(provider: Provider) -> None:
    """get_providers over UDP returns the signed packets of all, and the tombstone of what was stopped."""
    own = await provider.announce()
    async with provider.neighbour() as other:
        learned = other.sign()
        await other.add(learned)
        page = await other.call("get_providers", learned.key, b"", [])
        found = {records.read(packet).node_id for packet in page["records"]}
        assert found == {own.node_id, other.key.node_id}
        await provider.stop()
        page = await other.call("get_providers", learned.key, b"", [])
        assert {records.read(p).node_id for p in page["records"] if records.read(p).tombstone} == {own.node_id}


async def test_the_status_counts(provider: Provider) -> None:
    """Records, bytes and datagrams are counted, alone without peers."""
    await provider.announce()
    async with provider.neighbour() as other:
        await other.add(other.sign())
        await asyncio.get_running_loop().run_in_executor(None, throw, other.address, b"garbage")
    await until(provider.status, lambda status: status.rejected_count == 1)
    status = await provider.status()
    assert (status.stored_record_count, status.local_record_count, status.peer_count) == (2, 1, 0)
    assert status.stored_bytes > 500
    assert status.requests_received == 2
    assert status.listen_address.startswith("127.0.0.1:")


# Over restarts


async def test_a_restart_keeps_identity_sequence_and_records(tmp_path: Path) -> None:
    """After a restart the same node has the same announcements, and a stopped one stays stopped."""
    async with running(tmp_path) as before:
        first = await before.announce()
        await before.announce("db")
        await before.stop("db")
        async with before.neighbour() as other:
            await other.add(other.sign())
        learned = other.key.node_id
    async with running(tmp_path) as after:
        found = {p.node_id: p for p in await after.discover()}
        assert set(found) == {first.node_id, learned}
        assert found[first.node_id] == first
        assert await after.discover("db") == []
        assert (await after.announce()).sequence > first.sequence


async def test_starts_that_cannot_be_right_are_refused(tmp_path: Path) -> None:
    """Peers, a damaged key, a used data directory, a used port, a wrong address: one clear error each."""
    peers = await failed_start(tmp_path, dht_peers="127.0.0.1:7445")
    assert isinstance(peers, Unimplemented)
    assert peers.reason == "DHT_PEERS_UNSUPPORTED"
    assert (await failed_start(tmp_path, dht_listen="7445")).reason == "BAD_DHT_LISTEN"
    assert (await failed_start(tmp_path, ttl_seconds=1.0)).reason == "BAD_TTL_SECONDS"
    async with running(tmp_path) as provider:
        second = await failed_start(tmp_path, listen=f"unix:{tmp_path}/q.sock")
        assert (type(second), second.reason) == (FailedPrecondition, "DATA_DIR_IN_USE")
        port = (await provider.status()).listen_address
        taken = await failed_start(tmp_path / "other", dht_listen=port)
        assert (type(taken), taken.reason) == (Unavailable, "ADDRESS_IN_USE")
    key = tmp_path / "data" / "node.key"
    key.write_text(key.read_text()[:-40])
    damaged = await failed_start(tmp_path)
    assert (type(damaged), damaged.reason) == (DataLoss, "KEY_DAMAGED")
    key.unlink()
    assert (await failed_start(tmp_path)).reason == "KEY_MISSING"
    assert not key.exists()


class Process:
    """The provider as a process of its own."""

    def __init__(self, directory: Path) -> None:
        self.target = f"unix:{directory}/p.sock"
        self.log = directory / "log"
        self._arguments = (
            "--listen",
            self.target,
            "--data-dir",
            str(directory / "data"),
            "--dht-listen",
            "127.0.0.1:0",
        )

    @asynccontextmanager
    async def started(self) -> AsyncIterator[tuple[asyncio.subprocess.Process, Provider]]:
        with self.log.open("ab") as log:
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "services.provider", *self._arguments, stderr=log
            )
        try:
            async with connect(self.target, files=[pb.DESCRIPTOR]) as channel:
                async with asyncio.timeout(PATIENCE):
                    await channel.channel_ready()
                yield process, Provider(Settings(), Clock(), channel)
        finally:
            if process.returncode is None:
                process.send_signal(signal.SIGTERM)
                async with asyncio.timeout(PATIENCE):
                    await process.wait()


async def test_a_kill_in_the_middle_loses_nothing_that_was_acknowledged(tmp_path: Path) -> None:
    """Killed by SIGKILL amid announcements and stops, it comes back with each one that was answered."""
    provider_process = Process(tmp_path)
    announced: dict[str, int] = {}
    stopped: set[str] = set()
    for round_ in range(3):
        async with provider_process.started() as (process, provider):
            await _killed_amid(process, provider, round_, announced, stopped)
    assert len(announced) >= 75
    assert len(stopped) >= 15
    async with provider_process.started() as (_, provider):
        found = {p.manifest_id: p.sequence for p in await listed(provider)}
        missing = {m: seq for m, seq in announced.items() if found.get(m, 0) < seq}
        assert missing == {}
        assert stopped & found.keys() == set()


async def _killed_amid(
    process: asyncio.subprocess.Process,
    provider: Provider,
    round_: int,
    announced: dict[str, int],
    stopped: set[str],
) -> None:
    enough = asyncio.Event()

    async def one(number: int) -> None:
        manifest = f"r{round_}-{number}"
        try:
            with translated():
                seq = (await provider.announce(manifest)).sequence
                announced[manifest] = seq
                if number % 5 == 0:
                    del announced[manifest]
                    await provider.stop(manifest)
                    stopped.add(manifest)
        except BeemeshError:
            return  # not acknowledged: it may be there or not
        if len(announced) >= 25 * (round_ + 1) and len(stopped) >= 5 * (round_ + 1):
            enough.set()

    async def worker(first: int) -> None:
        for number in range(first, 2_000, 16):
            if process.returncode is not None:
                return
            await one(number)

    async with asyncio.TaskGroup() as group:
        for first in range(16):
            group.create_task(worker(first))
        async with asyncio.timeout(PATIENCE):
            await enough.wait()
        process.kill()
    await process.wait()


async def test_garbage_does_not_disturb_the_process(tmp_path: Path) -> None:
    """Thousands of random, cut and hostile datagrams: no traceback in the log, and it still answers."""
    provider_process = Process(tmp_path)
    async with provider_process.started() as (_, provider):
        host, _, port = (await provider.status()).listen_address.rpartition(":")
        await asyncio.get_running_loop().run_in_executor(None, throw_garbage, (host, int(port)))
        await provider.announce()
        async with provider.neighbour() as other:
            assert (await other.add(other.sign()))[0][0] == "ok"
        assert (await provider.status()).rejected_count > 100
        assert len(await provider.discover()) == 2
    text = provider_process.log.read_text()
    assert "serving" in text
    assert "Traceback" not in text
    assert "error" not in text


def throw(address: tuple[str, int], *datagrams: bytes) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        for datagram in datagrams:
            sender.sendto(datagram, address)


def throw_garbage(address: tuple[str, int]) -> None:
    head = b"\x00" + b"i" * 20
    whole = head + msgpack.packb(["get_providers", [b"k" * 20, b"", []]])
    hostile = [
        b"",
        b"\x00",
        head,
        head + b"\x91" * 1000,
        head + b"\xdd\xff\xff\xff\xff",
        b"\x01" + b"i" * 20 + msgpack.packb({"value": 1}),
        b"\x07" + whole[1:],
        head + msgpack.packb(["__init__", []]),
        head + msgpack.packb(["connection_lost", [None]]),
        head + msgpack.packb(["store", [b"n", b"k", {"a": [1]}]]),
        head + msgpack.packb(["find_node", ["text", 5]]),
        head + msgpack.packb(["add_provider", [b"k" * 20, b"t", [[]]]]),
        head + msgpack.packb(["get_providers", [b"k" * 20, b"", [[b"p", -1], 7]]]),
    ]
    throw(address, *hostile, *(whole[:cut] for cut in range(len(whole))))
    for _ in range(20):
        throw(address, *(os.urandom(1 + n % 400) for n in range(100)))
        time.sleep(0.005)  # the socket's buffer is bounded: what is dropped tests nothing


async def listed(provider: Provider, **request: Any) -> list[pb.Provider]:
    wanted = pb.ListProvidersRequest(page_size=1000, **request)
    return list((await provider.stub.ListProviders(wanted, timeout=PATIENCE)).providers)


def _is_renewed(sequence: int, found: list[pb.Provider]) -> bool:
    return len(found) == 1 and found[0].sequence > sequence


async def until(ask: Callable[[], Awaitable[Any]], holds: Callable[[Any], bool]) -> None:
    """Ask until the answer holds."""
    async with asyncio.timeout(PATIENCE):
        while not holds(await ask()):
            await asyncio.sleep(0.05)
