"""`python -m services.registry`: the registry's process."""

from __future__ import annotations

import asyncio
import os
import sys
import time
import uuid

from beemesh.registry.v1 import registry_service_pb2 as pb
from beemesh.registry.v1.registry_service_pb2_grpc import add_RegistryServiceServicer_to_server

from services import settings as sources
from services import telemetry
from services.data_dir import claimed
from services.registry.directory import Directory, Timings
from services.registry.registry import Item, Registry
from services.registry.servicer import LeaseRange, Servicer
from services.registry.settings import Settings
from services.registry.store import ChoicesFile
from services.registry.watcher import Pace, Watchers
from services.rpc.process import run
from services.rpc.server import Server
from services.rpc.watch import Feed
from services.telemetry import Log

PROGRAM = "beemesh-registry"

log = Log(__name__)


async def serve(settings: Settings, stop: asyncio.Event) -> None:
    """Serve until `stop` is set."""
    with claimed(settings.data_dir):
        await _serve(settings, stop)


async def _serve(settings: Settings, stop: asyncio.Event) -> None:
    registry = _registry(settings)
    watchers = Watchers(
        registry=registry, pace=Pace(ask_every=settings.ask_seconds, answer_within=settings.answer_seconds)
    )
    leases = LeaseRange(default=settings.lease_seconds, low=settings.lease_min_seconds, high=settings.lease_max_seconds)
    servicer = Servicer(
        registry=registry,
        watchers=watchers,
        leases=leases,
        wall_offset=lambda: time.time() - time.monotonic(),
    )
    server = Server(addresses=[settings.listen], drain_seconds=settings.drain_seconds)
    server.add(
        add_RegistryServiceServicer_to_server, servicer, pb.DESCRIPTOR.services_by_name["RegistryService"].full_name
    )
    async with asyncio.TaskGroup() as group, server:
        tasks = (
            group.create_task(watchers.run()),
            group.create_task(registry.keep_time(seconds=settings.tick_seconds)),
        )
        log.info("serving", listen=settings.listen)
        await stop.wait()
        registry.feed.close()
        for task in tasks:
            task.cancel()


def _registry(settings: Settings) -> Registry:
    timings = Timings(
        flap_transitions=settings.flap_transitions,
        flap_window=settings.flap_window_seconds,
        calm=settings.flap_calm_seconds,
        keep_expired=settings.keep_expired_seconds,
        max_engines=settings.max_engines,
    )
    feed: Feed[Item] = Feed(
        epoch=uuid.uuid4().hex,
        log_size=settings.watch_log_size,
        buffer=settings.watch_buffer,
        bookmark_seconds=settings.bookmark_seconds,
    )
    file = ChoicesFile(settings.data_dir / "choices.json")
    directory = Directory(timings=timings, choices=file.load())
    return Registry(directory=directory, choices=file, feed=feed, clock=time.monotonic)


def main() -> None:
    """Read the settings and serve until SIGTERM."""
    settings = sources.load(Settings, program=PROGRAM, argv=sys.argv[1:], env=os.environ)
    telemetry.configure(service=PROGRAM, level=settings.log_level)
    run(PROGRAM, lambda stop: serve(settings, stop))


if __name__ == "__main__":
    main()
