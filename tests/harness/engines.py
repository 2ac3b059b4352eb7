"""Starts an engine in this process, on a Unix socket, and talks to it as any client would."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import grpc
from beemesh.engine.v1 import engine_service_pb2 as pb
from beemesh.engine.v1 import engine_service_pb2_grpc as pb_grpc
from beemesh.engine.v1 import mock_engine_service_pb2_grpc as mock_grpc

from services.engines.mock.backend import MockBackend
from services.engines.mock.service import program
from services.engines.mock.settings import MockSettings
from services.engines.service import run_engine
from services.rpc.client import connect
from tests.harness.processes import until_serving

NODE_A = secrets.token_hex(20)
NODE_B = secrets.token_hex(20)
"""Of this run alone: others may share the machine."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineClient:
    """A running engine, seen from outside."""

    target: str
    channel: grpc.aio.Channel
    engine: pb_grpc.EngineServiceStub
    mock: mock_grpc.MockEngineServiceStub
    """Answers only where the engine is the mock."""


@asynccontextmanager
async def running(target: str, serve: Callable[[asyncio.Event], Awaitable[None]]) -> AsyncIterator[EngineClient]:
    """Run `serve(stop)` until the block ends, and drain it then; its error is raised."""
    stop = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        task = group.create_task(_awaited(serve(stop)))
        try:
            async with connect(target, files=[pb.DESCRIPTOR]) as channel:
                await until_serving(channel)
                yield EngineClient(
                    target=target,
                    channel=channel,
                    engine=pb_grpc.EngineServiceStub(channel),
                    mock=mock_grpc.MockEngineServiceStub(channel),
                )
        finally:
            stop.set()
            await asyncio.wait([task])


async def _awaited(work: Awaitable[None]) -> None:
    await work


def mock_backend(directory: Path) -> MockBackend:
    """The mock's backend as it stands in `directory`: what a restarted process, or a second node, would find."""
    return MockBackend(directory / "backend", clock=time.time)


@asynccontextmanager
async def mock_engine(
    directory: Path,
    *,
    name: str = "mock",
    node_id: str = NODE_A,
    backend: MockBackend | None = None,
    registry: str = "",
) -> AsyncIterator[EngineClient]:
    """A mock engine with its data in `directory`; started again on the same one it finds its workloads.

    `backend`: one that several nodes' engines use at the same time; `registry`: where it registers, empty: nowhere.
    """
    settings = MockSettings(
        listen=f"unix:{directory}/{name}.sock",
        data_dir=f"{directory}/{name}",
        registry=registry,
        provider="",
        node_id=node_id,
        probe_interval=0.2,
        poll_interval=0.2,
    )
    runs = program(backend or mock_backend(directory))
    async with running(settings.listen, lambda stop: run_engine(settings, runs, stop)) as client:
        yield client
