"""How an engine's process is wired: data directory, node id, server, health, keeper and registration, in one scope."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from beemesh.engine.v1 import engine_service_pb2 as pb
from beemesh.engine.v1 import engine_service_pb2_grpc as pb_grpc

from services.data_dir import claimed
from services.engines.backend import Limits
from services.engines.capacity import measure
from services.engines.engine import Engine, HealthState
from services.engines.keeper import Keeper
from services.engines.monitor import Monitor
from services.engines.node import NodeIdentity
from services.engines.records import Records
from services.engines.registration import Registration
from services.engines.servicer import EngineServicer, Parts
from services.engines.settings import EngineSettings
from services.rpc.server import Server
from services.telemetry import Log

ENGINE_SERVICE = pb.DESCRIPTOR.services_by_name["EngineService"].full_name

T = TypeVar("T")

log = Log(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """What one engine adds to the shared wiring."""

    make_engine: Callable[[str], Engine]
    """Makes the engine for a node id; called once that id is known."""
    add_services: Callable[[Server, EngineServicer], None] | None = None
    """Adds the engine's services; None: EngineService alone."""


async def run_engine(settings: EngineSettings, program: Program, stop: asyncio.Event) -> None:
    """Serve until `stop` is set; raises FailedPrecondition for what makes a start impossible.

    The port is open from the beginning, so that others see who is there; calls answer UNAVAILABLE and `readiness` is
    NOT_SERVING until the node's id is known.
    """
    data_dir = Path(settings.data_dir)
    with claimed(data_dir):
        servicer = EngineServicer()
        server = Server(addresses=[settings.listen])
        (program.add_services or add_engine_service)(server, servicer)
        identity = NodeIdentity(configured=settings.node_id, provider=settings.provider, directory=data_dir)
        async with server:
            await server.set_health("readiness", False)
            await server.set_health("backend", False)
            node_id = await _unless(stop, identity.get())
            if node_id is not None:
                async with _parts(settings, program.make_engine(node_id)) as parts:
                    servicer.attach(parts)
                    await _serve(settings, server, servicer, identity, stop)


def add_engine_service(server: Server, servicer: EngineServicer) -> None:
    """Serve EngineService."""
    server.add(pb_grpc.add_EngineServiceServicer_to_server, servicer, ENGINE_SERVICE)


@asynccontextmanager
async def _parts(settings: EngineSettings, engine: Engine) -> AsyncIterator[Parts]:
    instance_id = uuid.uuid4().hex
    async with engine:
        monitor = Monitor(
            probe=engine.probe,
            clock=time.time,
            interval=settings.probe_interval,
            timeout=settings.probe_timeout,
            epoch=instance_id,
        )
        keeper = Keeper(
            engine=engine,
            records=Records(Path(settings.data_dir) / "workloads"),
            clock=time.time,
            epoch=instance_id,
            unreachable=lambda: monitor.status.why_unreachable,
            limits=Limits(observe=settings.observe_timeout, poll=settings.poll_interval),
        )
        async with monitor, keeper:
            yield Parts(engine=engine, keeper=keeper, monitor=monitor, instance_id=instance_id, capacity=measure())


async def _serve(
    settings: EngineSettings, server: Server, servicer: EngineServicer, identity: NodeIdentity, stop: asyncio.Event
) -> None:
    parts = servicer.parts
    info = parts.engine.info
    registration = Registration(
        target=settings.registry,
        engine_id=info.engine,
        endpoint=settings.advertise or settings.listen,
        instance_id=parts.instance_id,
        aliases=info.aliases,
        priority=settings.priority,
    )
    await server.set_health("readiness", True)
    log.info("serving", engine=info.engine, listen=settings.listen, node_id=parts.engine.node_id)
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(_follow_health(server, parts)), group.create_task(identity.verify())]
        if settings.registry:
            tasks.append(group.create_task(registration.run()))
        await stop.wait()
        parts.keeper.drain()
        parts.monitor.drain()
        for task in tasks:
            task.cancel()
    if settings.registry:
        await registration.leave()
    servicer.detach()


async def _follow_health(server: Server, parts: Parts) -> None:
    """The gRPC health name `backend`, and the keeper's view, follow the monitor."""
    async for status in parts.monitor.watch():
        await server.set_health("backend", status.health.state is HealthState.HEALTHY)
        parts.keeper.backend_changed()


async def _unless(stop: asyncio.Event, work: Coroutine[Any, Any, T]) -> T | None:
    """The result of `work`, or None when `stop` is set first."""
    async with asyncio.TaskGroup() as group:
        working, stopping = group.create_task(work), group.create_task(stop.wait())
        await asyncio.wait([working, stopping], return_when=asyncio.FIRST_COMPLETED)
        working.cancel()
        stopping.cancel()
    return None if working.cancelled() else working.result()
