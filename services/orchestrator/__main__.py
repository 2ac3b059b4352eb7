"""`python -m services.orchestrator`: the orchestrator's process, and the node's public port."""

from __future__ import annotations

import asyncio
import os
import sys
import time
import uuid
from dataclasses import dataclass
from pathlib import Path

import grpc
from beemesh.engine.v1 import engine_service_pb2, function_service_pb2, image_service_pb2, mock_engine_service_pb2
from beemesh.orchestrator.v1.orchestrator_service_pb2_grpc import add_OrchestratorServiceServicer_to_server
from beemesh.provider.v1 import provider_service_pb2
from beemesh.registry.v1 import registry_service_pb2
from google.protobuf.descriptor import ServiceDescriptor

from services import settings as sources
from services import telemetry
from services.data_dir import claimed
from services.data_dir.node_id import remember, remembered
from services.errors import FailedPrecondition
from services.identity import check_node_id
from services.manifests import digest
from services.manifests.reader import Reader
from services.orchestrator import machine, token
from services.orchestrator.apply import Applier
from services.orchestrator.book import Book
from services.orchestrator.convert import resource_text
from services.orchestrator.engines import GrpcEngines, Timeouts
from services.orchestrator.history import History
from services.orchestrator.ledger import Ledger, Room
from services.orchestrator.model import Announced, Deployment
from services.orchestrator.operations import Operations
from services.orchestrator.orphans import OrphanKeeper
from services.orchestrator.outbox import Outbox
from services.orchestrator.providers import GrpcProviders
from services.orchestrator.reconciler import Reconciler
from services.orchestrator.relay import Relay, Route, engine_route
from services.orchestrator.selection import MOCK
from services.orchestrator.servicer import SERVICE, OrchestratorServicer
from services.orchestrator.settings import Settings
from services.orchestrator.store import Store
from services.orchestrator.views import Views
from services.rpc.process import run
from services.rpc.server import Server, Tls
from services.telemetry import Log

PROGRAM = "beemesh-orchestrator"

log = Log(__name__)

_SIDE_KINDS = ("ConfigMap", "Secret", "PersistentVolumeClaim")
"""What stands beside a workload and is none."""

_FIRST_VIEW_SECONDS = 5.0
_HEALTH_SECONDS = 1.0


async def serve(settings: Settings, stop: asyncio.Event) -> None:
    """Serve until `stop` is set."""
    with claimed(settings.data_dir), Reader() as reader:
        await _serve(settings, reader, stop)


async def _serve(settings: Settings, reader: Reader, stop: asyncio.Event) -> None:
    server = _server(settings)  # a refused address or token file ends it here, before anything is opened
    providers = GrpcProviders(settings.provider, applied_records=settings.applied_records)
    node_id = await _node_id(settings.data_dir, providers)
    async with Store(settings.data_dir / "orchestrator.db") as store, asyncio.TaskGroup() as tasks:
        engines = GrpcEngines(registry=settings.registry, timeouts=Timeouts())
        room = machine.measure(cpu=settings.cpu, memory=settings.memory)
        ledger = Ledger(room)
        epoch = uuid.uuid4().hex
        history = History(store=store, epoch=epoch, clock=time.time)
        book = Book(store=store, epoch=epoch, ledger=ledger, history=history)
        outbox = Outbox(
            store=store,
            book=book,
            history=history,
            providers=providers,
            text=lambda record: announced(record, engines, room),
            refresh_seconds=settings.announce_refresh,
        )
        operations = Operations(
            book=book, engines=engines, outbox=outbox, history=history, clock=time.time, tasks=tasks
        )
        applier = Applier(
            book=book,
            engines=engines,
            outbox=outbox,
            operations=operations,
            ledger=ledger,
            store=store,
            history=history,
            reader=reader,
            node_id=node_id,
            clock=time.time,
        )
        orphans = OrphanKeeper(
            book=book,
            engines=engines,
            operations=operations,
            history=history,
            reader=reader,
            node_id=node_id,
            clock=time.time,
        )
        reconciler = Reconciler(book=book, engines=engines, applier=applier, history=history, clock=time.time)
        views = Views(book=book, engines=engines, outbox=outbox, epoch=epoch)
        engines.subscribe(reconciler.touch)
        engines.subscribe(views.touch_workload)
        book.subscribe(views.touch)
        outbox.subscribe(views.touch)
        engines.subscribe(lambda workload_id: None if workload_id else outbox.refresh())
        history.load()
        book.load()
        outbox.load()
        servicer = OrchestratorServicer(
            applier=applier,
            operations=operations,
            book=book,
            engines=engines,
            views=views,
            orphans=orphans,
            store=store,
            history=history,
            node_id=node_id,
        )
        server.add(add_OrchestratorServiceServicer_to_server, servicer, SERVICE.full_name)
        relayed = _relay(engines, providers)
        server.add_generic(relayed.handler, relayed.names)
        background = [tasks.create_task(work) for work in (engines.run(), outbox.run(), reconciler.run())]
        await engines.synced(_FIRST_VIEW_SECONDS)
        operations.resume()
        async with server:
            background.append(tasks.create_task(_tell_health(server, engines, providers)))
            log.info("serving", listen=settings.listen, public=settings.public or "-", node_id=node_id)
            await stop.wait()
            for feed in (book.feed, views.feed, history):
                feed.close()
        operations.interrupt_all()
        for task in background:
            task.cancel()


def _server(settings: Settings) -> Server:
    if bool(settings.tls_certificate) != bool(settings.tls_key):
        raise FailedPrecondition("TLS needs both tls_certificate and tls_key", reason="TLS_INCOMPLETE")
    tls = None
    if settings.tls_certificate:
        tls = Tls(certificate=Path(settings.tls_certificate), key=Path(settings.tls_key))
    addresses = [settings.listen, *([settings.public] if settings.public else [])]
    return Server(addresses=addresses, token=token.load(settings.token_file), tls=tls)


async def _node_id(directory: Path, providers: GrpcProviders) -> str:
    """This node's id: the provider's word, or what it said the last time while it is down."""
    if known := await asyncio.to_thread(remembered, directory):
        return known
    node_id = check_node_id(await providers.node_id())
    await asyncio.to_thread(remember, directory, node_id)
    return node_id


def announced(record: Deployment, engines: GrpcEngines, room: Room) -> Announced:
    """What is said of a running deployment; capabilities are the engines usable now, and mock is none."""
    usable = sorted(view.engine_id for view in engines.views().values() if view.available and view.engine_id != MOCK)
    return Announced(
        metadata={
            "runtime_engine": record.engine_id,
            "workload_id": record.workload_id,
            "node_type": "beemesh-machine",
            "capabilities": ",".join(usable),
            **resource_text(cpu_cores=room.cpu_cores, memory_bytes=room.memory_bytes),
        },
        digest=digest(record.wish.manifest.encode()),
        kind=next(kind for kind in record.wish.kinds if kind not in _SIDE_KINDS),
        owner=record.owner,
        engine_id=record.engine_id,
        apply_time=record.create_time,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Relayed:
    handler: Relay
    names: tuple[str, ...]


_ENGINE_SERVICES: tuple[ServiceDescriptor, ...] = tuple(
    file.DESCRIPTOR.services_by_name[name]
    for file, name in (
        (engine_service_pb2, "EngineService"),
        (function_service_pb2, "FunctionService"),
        (image_service_pb2, "ImageService"),
        (mock_engine_service_pb2, "MockEngineService"),
    )
)
_REGISTRY = registry_service_pb2.DESCRIPTOR.services_by_name["RegistryService"]
_PROVIDER = provider_service_pb2.DESCRIPTOR.services_by_name["ProviderService"]


def _relay(engines: GrpcEngines, providers: GrpcProviders) -> _Relayed:
    to_engine = engine_route(engines.channel)
    routes: dict[str, Route] = {service.full_name: to_engine for service in _ENGINE_SERVICES}
    routes[_REGISTRY.full_name] = lambda _metadata: engines.registry
    routes[_PROVIDER.full_name] = lambda _metadata: providers.channel
    services = (*_ENGINE_SERVICES, _REGISTRY, _PROVIDER)
    return _Relayed(handler=Relay(services, routes), names=tuple(routes))


async def _tell_health(server: Server, engines: GrpcEngines, providers: GrpcProviders) -> None:
    """The relayed services' health is that of who serves them."""
    ready = grpc.ChannelConnectivity.READY
    while True:
        await server.set_health(_REGISTRY.full_name, engines.registry.get_state(try_to_connect=True) is ready)
        await server.set_health(_PROVIDER.full_name, providers.channel.get_state(try_to_connect=True) is ready)
        any_engine = any(view.available for view in engines.views().values())
        for service in _ENGINE_SERVICES:
            await server.set_health(service.full_name, any_engine)
        await asyncio.sleep(_HEALTH_SECONDS)


def main() -> None:
    """Read the settings and serve until SIGTERM."""
    settings = sources.load(Settings, program=PROGRAM, argv=sys.argv[1:], env=os.environ)
    telemetry.configure(service=PROGRAM, level=settings.log_level)
    run(PROGRAM, lambda stop: serve(settings, stop))


if __name__ == "__main__":
    main()
