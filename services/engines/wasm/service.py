"""How the wasm engine is wired: the shared service, its backend, and FunctionService beside it."""

from __future__ import annotations

import time
from pathlib import Path

from beemesh.engine.v1 import function_service_pb2_grpc as function_grpc

from services.engines.functions import FUNCTION_SERVICE, FunctionServicer
from services.engines.service import Program, add_engine_service
from services.engines.servicer import EngineServicer
from services.engines.wasm.engine import WasmEngine
from services.engines.wasm.live import LiveLimits
from services.engines.wasm.pool import Pool
from services.engines.wasm.runtimes import Runtimes
from services.engines.wasm.settings import WasmSettings
from services.rpc.server import Server


def program(settings: WasmSettings) -> Program:
    """A wasm engine as the settings have it."""
    return Program(make_engine=lambda node_id: make_engine(settings, node_id), add_services=_add_services)


def make_engine(settings: WasmSettings, node_id: str) -> WasmEngine:
    """The engine of a node."""
    data_dir = Path(settings.data_dir)
    return WasmEngine(
        node_id=node_id,
        directory=data_dir / "functions",
        runtimes=Runtimes(
            Path(settings.cache_dir) if settings.cache_dir else data_dir / "cache", node_modules=settings.node_modules
        ),
        pool=Pool(limit=settings.workers, spares=settings.spare_workers),
        limits=LiveLimits(
            event_bytes=settings.event_limit,
            result_bytes=settings.event_limit,
            queue=settings.queue,
            queue_seconds=settings.queue_timeout,
            idle_seconds=settings.idle_timeout,
        ),
        code_roots=[Path(root) for root in settings.code_dirs.split(":") if root],
        clock=time.time,
        monotonic=time.monotonic,
    )


def _add_services(server: Server, servicer: EngineServicer) -> None:
    add_engine_service(server, servicer)
    server.add(function_grpc.add_FunctionServiceServicer_to_server, FunctionServicer(servicer), FUNCTION_SERVICE)
