"""One beectl run's connection to the orchestrator's socket or public port."""

from __future__ import annotations

import asyncio
import ipaddress
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, TypeVar

import grpc
from beemesh.orchestrator.v1 import orchestrator_service_pb2 as orchestrator_pb2
from beemesh.orchestrator.v1.orchestrator_service_pb2_grpc import OrchestratorServiceStub
from beemesh.provider.v1 import provider_service_pb2 as provider_pb2
from beemesh.provider.v1.provider_service_pb2_grpc import ProviderServiceStub
from beemesh.registry.v1 import registry_service_pb2 as registry_pb2
from beemesh.registry.v1.registry_service_pb2_grpc import RegistryServiceStub

from services.cli.report import Failure, unreachable
from services.errors import BeemeshError, Unavailable
from services.rpc.client import connect
from services.rpc.deadline import budget
from services.rpc.errors import from_rpc_error
from services.rpc.sending import heard_out
from services.settings import run_home

R = TypeVar("R")

FOLLOW_SECONDS = 86_400.0
"""The deadline of a call that follows: even that one has one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """Where the node is and what opens it."""

    address: str = ""
    """`unix:/path` or `host:port`; empty: this machine's node."""
    token_file: Path | None = None
    root_certificate: Path | None = None
    """PEM; given: the port is spoken to over TLS."""
    timeout: float = 30.0
    """Seconds for a call that waits for nothing."""

    def target(self, env: Mapping[str, str] = os.environ) -> str:
        """The gRPC target."""
        return self.address or f"unix:{run_dir(env) / 'orchestrator.sock'}"

    def metadata(self, env: Mapping[str, str] = os.environ) -> tuple[tuple[str, str], ...]:
        """The token as call metadata, only where one was named: whoever listens at an address gets what is sent there.

        Raises Failure when the file cannot be read, and rather than send a token in clear to another machine.
        """
        target, path = self.target(env), self.token_file
        if path is None or target.startswith("unix:"):
            return ()
        if self.root_certificate is None and not _is_loopback(target):
            raise Failure(f"the token would go to {target} in clear: name its root certificate with --ca")
        try:
            return (("authorization", f"Bearer {path.read_text().strip()}"),)
        except OSError as error:
            raise Failure(f"token file {path}: {error.strerror}") from error


def _is_loopback(target: str) -> bool:
    host = target.rpartition(":")[0].strip("[]")
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def run_dir(env: Mapping[str, str]) -> Path:
    """Where this machine's node has its sockets."""
    return Path(env["BEEMESH_RUN_DIR"]) if env.get("BEEMESH_RUN_DIR") else run_home(env)


class Session:
    """The services of one node; `async with` connects and closes."""

    def __init__(self, access: Access) -> None:
        self._access = access
        self._metadata = access.metadata()

    async def __aenter__(self) -> Self:
        files = (orchestrator_pb2.DESCRIPTOR, provider_pb2.DESCRIPTOR, registry_pb2.DESCRIPTOR)
        self._channel = connect(self._access.target(), files=files, root_certificate=self._access.root_certificate)
        self.orchestrator = OrchestratorServiceStub(self._channel)
        self.provider = ProviderServiceStub(self._channel)
        self.registry = RegistryServiceStub(self._channel)
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._channel.close()

    async def call(self, method: Callable[..., Awaitable[R]], request: Any, *, wait: float = 0.0) -> R:
        """One unary call that may wait `wait` seconds beyond the usual time; raises the domain error it ends in."""
        try:
            return await method(request, timeout=budget(self._access.timeout + wait), metadata=self._metadata)
        except grpc.aio.AioRpcError as error:
            raise self._told(error) from error

    async def stream(self, method: Callable[..., Any], request: Any) -> AsyncIterator[Any]:
        """The responses to one request, or to an iterator of them; raises the domain error that the call ends in."""
        call = method(request, timeout=budget(FOLLOW_SECONDS), metadata=self._metadata)
        if isinstance(request, AsyncIterator):
            call = heard_out(call)
        try:
            async for response in call:
                yield response
        except grpc.aio.AioRpcError as error:
            raise self._told(error) from error
        finally:
            call.cancel()

    def _told(self, error: grpc.aio.AioRpcError) -> BeemeshError:
        found = from_rpc_error(error)
        if isinstance(found, Unavailable) and found.reason == "RPC_UNAVAILABLE":
            return unreachable(self._access.target(), found)
        return found


def run(access: Access, body: Callable[[Session], Coroutine[Any, Any, R]]) -> R:
    """Run `body` with a session; Ctrl-C cancels its calls and raises KeyboardInterrupt."""

    async def connected() -> R:
        async with Session(access) as session:
            return await body(session)

    return asyncio.run(connected())
