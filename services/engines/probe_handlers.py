"""Runs one probe or lifecycle hook: a command in the container, or a question to one of its ports.

h11 and grpc are imported when a handler first needs them: not every engine brings them.
"""

from __future__ import annotations

import asyncio
import os
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from functools import cached_property
from typing import TYPE_CHECKING, Protocol
from urllib.parse import SplitResult, quote, urljoin, urlsplit

from services.engines.probes import Exec, Finding, Grpc, Handler, HttpGet, TcpSocket
from services.errors import BeemeshError, Unavailable
from services.rpc.deadline import budget
from services.telemetry import Log

if TYPE_CHECKING:
    import h11

_AGENT = "kube-probe/beemesh"
"""Servers know probes by the first word, and keep them out of their logs."""
_MAX_REQUESTS = 10
_MAX_ANSWER_BYTES = 64 << 10
_READ_BYTES = 16 << 10
_BODY_SECONDS = 0.2
_NOT_SENT = frozenset({"connection", "content-length", "host", "trailer", "transfer-encoding"})
_URL_SAFE = "!$%&'()*+,/:;=?@[]~"
_GRPC_OPTIONS = (
    ("grpc.primary_user_agent", _AGENT),
    ("grpc.max_receive_message_length", _MAX_ANSWER_BYTES),
    ("grpc.enable_retries", 0),
    ("grpc.enable_http_proxy", 0),
    ("grpc.use_local_subchannel_pool", 1),
)

Address = tuple[str, int]

log = Log(__name__)


class Target(Protocol):
    """What an engine gives so that its containers can be probed.

    Whatever it raises of services.errors means that the probe could not be run: it is held against the backend and
    not against the container.
    """

    async def exec(self, component_id: str, command: Sequence[str], timeout: float) -> tuple[int, str]:
        """Run the command in the container; the exit code and the first 10 KiB of its output.

        Raises TimeoutError when the command takes longer than `timeout` seconds, which is a failure of the container;
        cancelled at that time if it has not. Either way it ends the command if it can.
        """

    async def dial(self, component_id: str, port: int) -> Address:
        """Where this port of the container is reached from this process: host and port."""


class _Failed(Exception):
    """The container's fault; the text says what."""


Dial = Callable[[int], Awaitable[Address]]


class Handlers:
    """Runs handlers against the containers of one engine."""

    def __init__(self, target: Target) -> None:
        self._target = target

    async def check(self, component_id: str, handler: Handler, *, timeout: float) -> Finding:
        """Run it once and say what was found, at the latest after `timeout` seconds; never raises.

        Learning the address and reading the rest of an HTTP answer are not counted, and have bounds of their own.
        """
        try:
            return await self._run(component_id, handler, timeout)
        except _Failed as failure:
            return Finding(ok=False, message=str(failure))
        except TimeoutError:
            return Finding(ok=False, message=f"no answer within {timeout:g} s")
        except BeemeshError as error:
            return Finding(ok=None, message=error.message)
        except Exception as error:  # a defect of ours must not be held against the container
            log.error("probe_not_run", component_id=component_id, exc_info=error)
            return Finding(ok=None, message="the probe could not be run; the engine's log says why")

    async def _run(self, component_id: str, handler: Handler, timeout: float) -> Finding:
        if isinstance(handler, Exec):
            async with asyncio.timeout(timeout):
                code, output = await self._target.exec(component_id, handler.command, timeout)
            return Finding(ok=code == 0, message="" if code == 0 else f"exit code {code}: {output.strip()}")

        async def dial(port: int) -> Address:
            return await self._address(component_id, handler, port, timeout)

        address = await dial(handler.port)
        until = asyncio.get_running_loop().time() + timeout
        if isinstance(handler, HttpGet):
            return await self._get(handler, address, dial, until)
        async with asyncio.timeout_at(until):
            if isinstance(handler, Grpc):
                return await _ask_health(handler, address, timeout)
            async with _connection(address):
                return Finding(ok=True)

    async def _address(self, component_id: str, handler: Handler, port: int, timeout: float) -> Address:
        if isinstance(handler, HttpGet | TcpSocket) and handler.host:
            return handler.host, port
        try:
            async with asyncio.timeout(timeout):
                return await self._target.dial(component_id, port)
        except TimeoutError as error:
            raise Unavailable(
                f"the address of {component_id} could not be learnt within {timeout:g} s", reason="BACKEND_UNREACHABLE"
            ) from error

    async def _get(self, handler: HttpGet, address: Address, dial: Dial, until: float) -> Finding:
        """GET, following redirects to the same host as a kubelet does."""
        host = handler.host or address[0]
        url = _split(f"{handler.scheme.lower()}://{_host_port((host, handler.port))}{_path(handler.path)}")
        vhost = next((value for name, value in handler.headers if name.lower() == "host"), "")
        for _ in range(_MAX_REQUESTS):
            port = _port(url)
            reached = address if port == handler.port else await dial(port)
            headers = [("Host", vhost or url.netloc), *_headers(handler)]
            status, location = await self._exchange(url, reached, headers, until)
            if not location:
                return _judge(status)
            following = _split(location, base=url.geturl())
            if following.hostname != url.hostname:
                return Finding(ok=True, message=f"a redirect to another host was not followed: {following.hostname}")
            if _split(location).netloc:
                vhost = ""  # it names its host itself
            url = following
        raise _Failed(f"stopped after {_MAX_REQUESTS} redirects")

    async def _exchange(
        self, url: SplitResult, address: Address, headers: Sequence[tuple[str, str]], until: float
    ) -> tuple[int, str]:
        """Send one GET; the status and, of a redirect, the location."""
        import h11

        target = _path(url.path + (f"?{url.query}" if url.query else ""))
        connection = h11.Connection(h11.CLIENT, max_incomplete_event_size=_MAX_ANSWER_BYTES)
        try:
            encoded = [(name.encode(), value.encode(errors="surrogateescape")) for name, value in headers]
            request = h11.Request(method="GET", target=target, headers=encoded)
            opening = connection.send(request) or b""
            opening += connection.send(h11.EndOfMessage()) or b""
            async with asyncio.timeout_at(until) as bound, _connection(address, self._tls_for(url)) as (reader, writer):
                writer.write(opening)
                head = await _head(connection, reader)
                bound.reschedule(None)  # the status is the answer; what follows is courtesy
                await _read_rest(connection, reader)
        except h11.ProtocolError as error:
            raise _Failed(f"malformed HTTP: {error}") from error
        redirects = head.status_code in (301, 302, 303, 307, 308)
        location = next((value for name, value in head.headers if name == b"location"), b"") if redirects else b""
        return head.status_code, location.decode(errors="surrogateescape")

    def _tls_for(self, url: SplitResult) -> ssl.SSLContext | None:
        if url.scheme not in ("http", "https"):
            raise _Failed(f"a redirect to the scheme {url.scheme!r} cannot be followed")
        return self._unverified if url.scheme == "https" else None

    @cached_property
    def _unverified(self) -> ssl.SSLContext:
        """Certificates are not verified, so weak ones are no reason to fail either."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        context.set_ciphers("DEFAULT:@SECLEVEL=0")
        return context


@asynccontextmanager
async def _connection(
    address: Address, tls: ssl.SSLContext | None = None
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """A connection for as long as the block; what the network does to it is the container's fault."""
    try:
        reader, writer = await asyncio.open_connection(*address, ssl=tls)
        try:
            yield reader, writer
        finally:
            writer.transport.abort()  # closing TLS in due form would wait for the container
    except TimeoutError:
        raise
    except UnicodeError as error:
        raise _Failed(f"not a host name: {address[0][:200]!r}") from error
    except OSError as error:
        why = os.strerror(error.errno) if isinstance(error, ConnectionError) and error.errno else str(error)
        raise _Failed(f"{_host_port(address)}: {why}") from error


async def _head(connection: h11.Connection, reader: asyncio.StreamReader) -> h11.Response:
    """Read up to the final status and headers, within bounds also where a server sends endless interim ones."""
    import h11

    left = _MAX_ANSWER_BYTES
    while True:
        event = connection.next_event()
        if isinstance(event, h11.Response):
            return event
        if event is h11.NEED_DATA:
            if left <= 0:
                raise _Failed(f"no status within {_MAX_ANSWER_BYTES} bytes of answer")
            data = await reader.read(min(left, _READ_BYTES))
            left -= len(data)
            connection.receive_data(data)


async def _read_rest(connection: h11.Connection, reader: asyncio.StreamReader) -> None:
    """Take the body, if it is small and comes at once: a server that cannot send it would log an error each time."""
    import h11

    left = _MAX_ANSWER_BYTES
    with suppress(OSError, h11.ProtocolError):
        async with asyncio.timeout(_BODY_SECONDS):
            while left > 0:
                event = connection.next_event()
                if isinstance(event, h11.EndOfMessage | h11.ConnectionClosed) or event is h11.PAUSED:
                    return
                if event is h11.NEED_DATA:
                    data = await reader.read(_READ_BYTES)
                    left -= len(data)
                    connection.receive_data(data)


async def _ask_health(handler: Grpc, address: Address, timeout: float) -> Finding:
    """Ask grpc.health.v1 on a connection of its own, without TLS."""
    import grpc
    from grpc_health.v1 import health_pb2, health_pb2_grpc

    async with grpc.aio.insecure_channel(_host_port(address), options=_GRPC_OPTIONS) as channel:
        request = health_pb2.HealthCheckRequest(service=handler.service)
        try:
            reply = await health_pb2_grpc.HealthStub(channel).Check(request, timeout=budget(timeout))  # type: ignore[attr-defined]
        except grpc.aio.AioRpcError as error:
            raise _Failed(f"gRPC health check failed: {error.code().name}: {error.details()}") from error
    status = health_pb2.HealthCheckResponse.ServingStatus.Name(reply.status)
    return Finding(ok=status == "SERVING", message="" if status == "SERVING" else f"service is {status}")


def _judge(status: int) -> Finding:
    if 200 <= status < 400:
        return Finding(ok=True)
    return Finding(ok=False, message=f"HTTP probe failed with statuscode: {status}")


def _headers(handler: HttpGet) -> list[tuple[str, str]]:
    """The manifest's headers, and what they leave out; an empty Accept means none."""
    given = [(name, value) for name, value in handler.headers if name.lower() not in _NOT_SENT]
    names = {name.lower() for name, _ in given}
    defaults = [("User-Agent", _AGENT), ("Accept", "*/*")]
    added = [(name, value) for name, value in defaults if name.lower() not in names]
    return [(n, v) for n, v in [*given, *added, ("Connection", "close")] if (n.lower(), v) != ("accept", "")]


def _split(url: str, *, base: str = "") -> SplitResult:
    try:
        split = urlsplit(urljoin(base, url))
        _ = split.port  # raises where it is none
    except ValueError as error:
        raise _Failed(f"not a URL: {url[:200]!r}: {error}") from error
    return split


def _path(path: str) -> str:
    """A request target: absolute, without fragment, and with what may not stand in one escaped."""
    return "/" + quote(path.partition("#")[0], safe=_URL_SAFE, errors="surrogateescape").removeprefix("/")


def _port(url: SplitResult) -> int:
    return url.port or (443 if url.scheme == "https" else 80)


def _host_port(address: Address) -> str:
    host, port = address
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
