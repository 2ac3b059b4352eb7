"""A node of real processes, two engines among them, each killed by -9 and started again at will."""

from __future__ import annotations

import os
import select
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

import grpc
from beemesh.engine.v1 import engine_service_pb2_grpc as engine_grpc
from beemesh.engine.v1 import mock_engine_service_pb2_grpc as mock_grpc
from beemesh.orchestrator.v1 import orchestrator_service_pb2 as pb
from beemesh.orchestrator.v1 import orchestrator_service_pb2_grpc as orchestrator_grpc
from beemesh.provider.v1 import provider_service_pb2_grpc as provider_grpc
from beemesh.registry.v1 import registry_service_pb2 as registry_pb
from beemesh.registry.v1 import registry_service_pb2_grpc as registry_grpc

from tests.crash.breakpoints import Breakpoints
from tests.crash.zygote import Zygote

ENGINES = ("left", "right")
SERVICES = ("registry", "provider", *ENGINES, "orchestrator")
SOON = 20.0
"""Seconds within which what must happen happens, on a busy machine."""

_LOOK_SECONDS = 0.005
_QUICK = [
    ("grpc.initial_reconnect_backoff_ms", 20),
    ("grpc.min_reconnect_backoff_ms", 20),
    ("grpc.max_reconnect_backoff_ms", 100),
    ("grpc.enable_retries", 0),
    ("grpc.use_local_subchannel_pool", 1),
]
_USABLE = (registry_pb.Engine.AVAILABILITY_AVAILABLE, registry_pb.Engine.AVAILABILITY_SUSPECT)


class CrashNode:
    """Registry, provider, the engines `left` and `right`, and an orchestrator; `with` starts and kills them."""

    def __init__(self, zygote: Zygote, place: Path) -> None:
        self.place = place
        self._zygote = zygote
        self._pids: dict[str, int] = {}
        self._points = {name: Breakpoints(place, name) for name in SERVICES}
        self._channels: dict[str, Any] = {}  # the stubs are typed for asyncio only, and serve both
        for name in SERVICES:
            self._connect(name)

    def _connect(self, name: str) -> None:
        """A channel of its own for each of a service's lives: none finds a connection that has just died."""
        if name in self._channels:
            self._channels[name].close()
        self._channels[name] = grpc.insecure_channel(self.target(name), options=_QUICK)

    @property
    def orchestrator(self) -> orchestrator_grpc.OrchestratorServiceStub:
        """The orchestrator's API."""
        return orchestrator_grpc.OrchestratorServiceStub(self._channels["orchestrator"])

    @property
    def registry(self) -> registry_grpc.RegistryServiceStub:
        """The registry's."""
        return registry_grpc.RegistryServiceStub(self._channels["registry"])

    @property
    def provider(self) -> provider_grpc.ProviderServiceStub:
        """The provider's."""
        return provider_grpc.ProviderServiceStub(self._channels["provider"])

    def engine(self, name: str) -> engine_grpc.EngineServiceStub:
        """An engine's."""
        return engine_grpc.EngineServiceStub(self._channels[name])

    def mock(self, name: str) -> mock_grpc.MockEngineServiceStub:
        """What steers it."""
        return mock_grpc.MockEngineServiceStub(self._channels[name])

    def __enter__(self) -> Self:
        self.start(*SERVICES)
        self.await_ready()
        return self

    def __exit__(self, *exc: object) -> None:
        self.kill(*self._pids)
        for channel in self._channels.values():
            channel.close()

    def target(self, name: str) -> str:
        """Where a service listens."""
        return f"unix:{self.place}/{name}.sock"

    def data(self, name: str) -> Path:
        """A service's data directory."""
        return self.place / name

    @property
    def log(self) -> Path:
        """What all services write."""
        return self.place / "log"

    @property
    def running(self) -> frozenset[str]:
        """The services that were started and not killed."""
        return frozenset(self._pids)

    def start(self, *names: str) -> None:
        """Start services."""
        for name in names:
            self._connect(name)
            program = "engine" if name in ENGINES else name
            self._pids[name] = self._zygote.fork(
                program, self._arguments(name), name=name, breakpoints=self.place, log=self.log
            )

    def kill(self, *names: str) -> None:
        """`kill -9`, all at once, and wait until they are gone."""
        ends = [os.pidfd_open(self._pids.pop(name)) for name in names]
        for end in ends:
            signal.pidfd_send_signal(end, signal.SIGKILL)
        for end in ends:
            gone, _, _ = select.select([end], [], [], SOON)
            os.close(end)
            assert gone, "a killed process is still there"

    def await_ready(self) -> None:
        """Wait until both engines can be chosen and the orchestrator answers."""
        self.until(self._engines_are_available, lambda: "an engine is not available")
        self.call(self.orchestrator.ListDeployments, pb.ListDeploymentsRequest())

    def _engines_are_available(self) -> bool:
        answer = self.call(self.registry.ListEngines, registry_pb.ListEnginesRequest())
        usable = {engine.engine_id for engine in answer.engines if engine.availability in _USABLE}
        return usable >= set(ENGINES)

    def call(self, method: Any, request: Any, *, seconds: float = SOON) -> Any:
        """One call; a service that is just starting is waited for. Raises grpc.RpcError."""
        return method(request, timeout=seconds, wait_for_ready=True)

    # Points

    def arm(self, service: str, point: str) -> None:
        """The service stops at this point, once it gets there; where it stands now, it goes on."""
        self._points[service].arm(point)

    def release(self, service: str, point: str) -> None:
        """It goes on from this point, or, started again, does not stop there; armed for another one it stays so."""
        self._points[service].release(point)

    def stands_at(self, service: str, point: str) -> bool:
        """Whether it has reached the point and waits there."""
        return self._points[service].stands_at(point)

    def await_stop(self, service: str, point: str) -> None:
        """Wait until it stands there."""
        self.until(lambda: self.stands_at(service, point), lambda: f"{service} is not at {point!r}")

    def until(self, holds: Callable[[], bool], what: Callable[[], str], *, seconds: float = SOON) -> None:
        """Wait until it holds; the failure says what does not, and shows the end of the log."""
        end = time.monotonic() + seconds
        while not holds():
            assert time.monotonic() < end, f"after {seconds:g}s: {what()}\n{self.log_tail()}"
            time.sleep(_LOOK_SECONDS)

    def log_tail(self, lines: int = 60) -> str:
        """The end of what the services wrote."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:]) if self.log.exists() else ""

    def _arguments(self, name: str) -> list[str]:
        flags = {"listen": self.target(name), "data-dir": str(self.data(name))}
        if name == "registry":
            flags |= {"flap-transitions": "1000000"}
        elif name == "provider":
            flags |= {"dht-listen": "127.0.0.1:0"}
        else:
            flags |= {"registry": self.target("registry"), "provider": self.target("provider")}
        if name in ENGINES:
            flags |= {"probe-interval": "0.5", "poll-interval": "0.5"}
        elif name == "orchestrator":
            flags |= {"public": "", "token-file": str(self.place / "token"), "cpu": "64", "memory": str(64 << 30)}
        return [f"--{flag}={value}" for flag, value in flags.items()]
