"""How the mock engine is wired: the shared service, its backend, and MockEngineService beside it."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

from beemesh.engine.v1 import engine_service_pb2_grpc as engine_grpc
from beemesh.engine.v1 import mock_engine_service_pb2 as mock_pb
from beemesh.engine.v1 import mock_engine_service_pb2_grpc as mock_grpc

from services.engines.mock.backend import MockBackend
from services.engines.mock.engine import MockEngine
from services.engines.mock.faults import Script, ScriptedServicer
from services.engines.mock.servicer import MockEngineServicer
from services.engines.mock.settings import MockSettings
from services.engines.service import ENGINE_SERVICE, Program, run_engine
from services.engines.servicer import EngineServicer
from services.rpc.server import Server

_MOCK_SERVICE = mock_pb.DESCRIPTOR.services_by_name["MockEngineService"].full_name


async def serve(settings: MockSettings, stop: asyncio.Event) -> None:
    """Serve a mock engine, with a backend of its own, until `stop` is set."""
    backend = MockBackend(Path(settings.data_dir) / "backend", clock=time.time)
    await run_engine(settings, program(backend), stop)


def program(backend: MockBackend) -> Program:
    """A mock engine on `backend`, which several nodes may share."""
    script = Script()

    def add_services(server: Server, servicer: EngineServicer) -> None:
        scripted = ScriptedServicer(servicer, script)
        server.add(engine_grpc.add_EngineServiceServicer_to_server, scripted, ENGINE_SERVICE)
        steering = MockEngineServicer(engine=servicer, backend=backend, script=script)
        server.add(mock_grpc.add_MockEngineServiceServicer_to_server, steering, _MOCK_SERVICE)

    return Program(
        make_engine=lambda node_id: MockEngine(node_id=node_id, backend=backend, health=script.health),
        add_services=add_services,
    )
