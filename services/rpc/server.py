"""The one way to serve: health, reflection (v1 and v1alpha), errors, limits, Unix and TCP sockets, TLS, drain."""

from __future__ import annotations

import asyncio
import fcntl
import ipaddress
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
from google.rpc import error_details_pb2  # noqa: F401 - so that reflection can describe our error details
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from services.errors import FailedPrecondition, Unavailable
from services.rpc.interceptors import ServingInterceptor
from services.rpc.reflect import add_reflection

MAX_MESSAGE_BYTES = 16 << 20
SOCKET_PATH_MAX = 100
"""Bytes; the kernel's limit is 108, and gRPC adds its own prefix."""

_OPTIONS = [
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    ("grpc.so_reuseport", 0),  # else a second server silently shares the port
    ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
    ("grpc.http2.max_ping_strikes", 0),
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.http2.ping_timeout_ms", 10_000),
    ("grpc.keepalive_permit_without_calls", 1),
]
_MAX_RPCS = 8192


@dataclass(frozen=True, slots=True, kw_only=True)
class Tls:
    """A server certificate: paths of PEM files."""

    certificate: Path
    key: Path


class Server:
    """A gRPC server on one or more addresses: `unix:/path` or `host:port` (port 0: any free one).

    `async with Server(...)` starts it and stops it again; every service is added before.
    """

    def __init__(
        self, *, addresses: Sequence[str], token: str | None = None, tls: Tls | None = None, drain_seconds: float = 3.0
    ) -> None:
        for address in addresses:
            check_exposure(address, tls=tls is not None, token=token is not None)
        self._addresses = addresses
        self._tls = tls
        self._drain_seconds = drain_seconds
        self._names: list[str] = []
        self._locks: list[int] = []
        self._health = health.aio.HealthServicer()
        self._grpc = grpc.aio.server(
            interceptors=[ServingInterceptor(token=token)], options=_OPTIONS, maximum_concurrent_rpcs=_MAX_RPCS
        )
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._grpc)
        self.ports: dict[str, int] = {}
        """The bound port of each TCP address, once started."""

    def add(self, add_to_server: Callable[[Any, Any], None], servicer: Any, full_name: str) -> None:
        """Serve one generated service under its full name."""
        add_to_server(servicer, self._grpc)
        self._names.append(full_name)

    def add_generic(self, handler: grpc.GenericRpcHandler, full_names: Iterable[str]) -> None:
        """Serve other services by a generic handler (the relay)."""
        self._grpc.add_generic_rpc_handlers((handler,))
        self._names.extend(full_names)

    async def set_health(self, name: str, serving: bool) -> None:
        """Set the health of a service name, or of `readiness` or `backend`."""
        status = health_pb2.HealthCheckResponse
        await self._health.set(name, status.SERVING if serving else status.NOT_SERVING)

    async def __aenter__(self) -> Server:
        add_reflection(self._grpc, self._names)
        try:
            for address in self._addresses:
                self._bind(address)
            await self._grpc.start()
        except BaseException:
            self._unlock()
            raise
        for name in ("", "liveness", "readiness", *self._names):
            await self.set_health(name, True)
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._health.enter_graceful_shutdown()
        await self._grpc.stop(self._drain_seconds)
        self._unlock()

    def _bind(self, address: str) -> None:
        if address.startswith("unix:"):
            self._bind_unix(address)
            return
        try:
            if self._tls is None:
                self.ports[address] = self._grpc.add_insecure_port(address)
            else:
                pair = (self._tls.key.read_bytes(), self._tls.certificate.read_bytes())
                self.ports[address] = self._grpc.add_secure_port(address, grpc.ssl_server_credentials([pair]))
        except RuntimeError as error:
            raise Unavailable(
                f"cannot listen on {address}: {error}", reason="ADDRESS_IN_USE", metadata={"address": address}
            ) from error

    def _bind_unix(self, address: str) -> None:
        path = Path(address.removeprefix("unix:"))
        if len(os.fsencode(path)) > SOCKET_PATH_MAX:
            raise FailedPrecondition(
                f"socket path {path} is longer than {SOCKET_PATH_MAX} bytes; choose a shorter directory",
                reason="SOCKET_PATH_TOO_LONG",
            )
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._lock(path)
        if path.exists() and not path.is_socket():
            raise FailedPrecondition(
                f"{path} is there and is no socket; it is not removed: choose another path",
                reason="SOCKET_PATH_TAKEN",
                metadata={"path": str(path)},
            )
        path.unlink(missing_ok=True)  # of a server that was killed
        before = os.umask(0o177)
        try:
            self._grpc.add_insecure_port(address)
        finally:
            os.umask(before)

    def _lock(self, path: Path) -> None:
        """A Unix socket is silently stolen by a second server; a locked file beside it prevents that."""
        lock = os.open(f"{path}.lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(lock)
            raise Unavailable(
                f"{path} is served by another process", reason="ADDRESS_IN_USE", metadata={"address": str(path)}
            ) from error
        self._locks.append(lock)

    def _unlock(self) -> None:
        while self._locks:
            os.close(self._locks.pop())


def check_exposure(address: str, *, tls: bool, token: bool) -> None:
    """Refuse an address that others can reach unless both TLS and a token guard it; raise FailedPrecondition."""
    if address.startswith("unix:") or (tls and token):
        return
    host = address.rpartition(":")[0].strip("[]")
    if host == "localhost":
        return
    try:
        if ipaddress.ip_address(host).is_loopback:
            return
    except ValueError:
        pass
    raise FailedPrecondition(
        f"refusing to listen on {address}: other machines could reach it; set a TLS certificate and a token file, "
        "or listen on 127.0.0.1",
        reason="ADDRESS_NEEDS_TLS_AND_TOKEN",
        metadata={"address": address},
    )


async def serve(server: Server, stop: asyncio.Event) -> None:
    """Serve until `stop` is set, then drain."""
    async with server:
        await stop.wait()
