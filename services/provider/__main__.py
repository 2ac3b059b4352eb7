"""`python -m services.provider`: the provider's process."""

from __future__ import annotations

import asyncio
import ipaddress
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from beemesh.provider.v1 import provider_service_pb2 as pb
from beemesh.provider.v1.provider_service_pb2_grpc import add_ProviderServiceServicer_to_server

from services import settings as sources
from services import telemetry
from services.data_dir import claimed
from services.errors import BeemeshError, FieldViolation, InvalidArgument
from services.provider import node_key
from services.provider.announcer import Announcer
from services.provider.catalogue import Catalogue
from services.provider.dht.node import DhtNode, peers_unsupported
from services.provider.dht.storage import SignedStorage
from services.provider.journal import Journal
from services.provider.node_key import NodeKey
from services.provider.records import TTL_MAX_MS, TTL_MIN_MS
from services.provider.servicer import Servicer, Traffic
from services.provider.settings import Settings
from services.provider.store import Caps, Store
from services.rpc.process import run
from services.rpc.server import Server
from services.telemetry import Log

PROGRAM = "beemesh-provider"
DATABASE = "provider.db"

log = Log(__name__)


async def serve(settings: Settings, stop: asyncio.Event, *, clock: Callable[[], float] = time.time) -> None:
    """Serve until `stop` is set; `clock` gives seconds since 1970."""
    if settings.dht_peers.strip():
        raise peers_unsupported(settings.dht_peers)
    if not TTL_MIN_MS <= settings.ttl_seconds * 1000 <= TTL_MAX_MS:
        raise _wrong("ttl_seconds", f"{settings.ttl_seconds}: expected {TTL_MIN_MS // 1000} to {TTL_MAX_MS // 1000}")
    host, port = _udp_address(settings.dht_listen)
    with claimed(settings.data_dir), _opened(settings.data_dir) as (journal, key):
        await _serve(settings, stop, clock=clock, journal=journal, key=key, host=host, port=port)


async def _serve(
    settings: Settings,
    stop: asyncio.Event,
    *,
    clock: Callable[[], float],
    journal: Journal,
    key: NodeKey,
    host: str,
    port: int,
) -> None:
    store = Store(secret=os.urandom(32), caps=_caps(settings))
    catalogue = Catalogue(store=store, epoch=f"{key.node_id[:8]}-{time.time_ns()}", clock=clock)
    announcer = Announcer(
        key=key, store=store, catalogue=catalogue, journal=journal, own_max=settings.max_announcements
    )
    storage = SignedStorage(announcer=announcer, catalogue=catalogue)
    dht = DhtNode(node_id=bytes.fromhex(key.node_id), storage=storage, secret=os.urandom(32), clock=clock)
    servicer = Servicer(
        announcer=announcer,
        catalogue=catalogue,
        traffic=lambda: _traffic(dht),
        default_ttl_seconds=settings.ttl_seconds,
    )
    server = Server(addresses=[settings.listen], drain_seconds=settings.drain_seconds)
    server.add(
        add_ProviderServiceServicer_to_server, servicer, pb.DESCRIPTOR.services_by_name["ProviderService"].full_name
    )
    announcer.load()
    async with asyncio.TaskGroup() as group:
        group.create_task(journal.run())
        try:
            await announcer.tick()
            await dht.listen(port, host)
            keeping = group.create_task(announcer.run())
            async with server:
                log.info("serving", listen=settings.listen, dht=dht.address, node_id=key.node_id)
                await stop.wait()
                catalogue.close()
            keeping.cancel()
            await _flushed(announcer)
        finally:
            dht.stop()
            journal.stop()


async def _flushed(announcer: Announcer) -> None:
    """What others said is told again; a disk that refuses it now does not make the end a failure."""
    try:
        await announcer.flush()
    except BeemeshError as error:
        log.warning("records_not_saved", error=repr(error))


def _caps(settings: Settings) -> Caps:
    return Caps(
        records=settings.max_records,
        size=settings.max_record_bytes,
        per_source=settings.max_records_per_source,
        per_key=settings.max_providers_per_manifest,
    )


def _traffic(dht: DhtNode) -> Traffic:
    counters = dht.counters
    return Traffic(
        listen_address=dht.address,
        peers=dht.peer_count,
        sent=counters.sent,
        received=counters.received,
        rejected=counters.rejected,
    )


@contextmanager
def _opened(data_dir: Path) -> Iterator[tuple[Journal, NodeKey]]:
    journal = Journal.open(data_dir / DATABASE)
    try:
        key = node_key.load_or_create(data_dir, may_create=not journal.node_id())
        journal.claim(key.node_id)
        yield journal, key
    finally:
        journal.close()


def _udp_address(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    if not host or not port.isdecimal() or int(port) > 65_535:
        raise _wrong("dht_listen", f"{text!r}: expected address:port, such as 127.0.0.1:7445")
    host = host.strip("[]")
    if not _is_loopback(host):  # until nodes prove themselves to each other, nobody else has business there
        raise _wrong("dht_listen", f"{text!r}: only a loopback address is served before there is a mesh of nodes")
    return host, int(port)


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _wrong(setting: str, message: str) -> InvalidArgument:
    return InvalidArgument(
        f"{setting} {message}",
        reason=f"BAD_{setting.upper()}",
        violations=[FieldViolation(field_path=setting, message=message)],
    )


def main() -> None:
    """Read the settings and serve until SIGTERM."""
    settings = sources.load(Settings, program=PROGRAM, argv=sys.argv[1:], env=os.environ)
    telemetry.configure(service=PROGRAM, level=settings.log_level)
    run(PROGRAM, lambda stop: serve(settings, stop))


if __name__ == "__main__":
    main()
