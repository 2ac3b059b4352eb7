"""Stands between Compose and podman's Docker-compatible socket, and mends the one answer that Compose would misread.

Compose makes a container anew that is not in the networks, or does not have the volumes, which it should have. It looks
that up in the list of containers, where podman tells the names of networks for their ids, and no mounts (4.3): all
would be made anew by each `up`. Everything else passes as it is, one request a connection.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

from services.engines.podman.http import UnixHttp
from services.errors import BeemeshError
from services.telemetry import Log

_HEAD_END = b"\r\n\r\n"
_MAX_HEAD = 64 << 10
_CHUNK = 64 << 10
_SECONDS = 30.0
"""For the list of containers."""
_LIST = re.compile(r"GET ((?:/v[0-9.]+)?/containers)/json(\?\S*)? HTTP/1\.1")
_CONNECTIONS = 256
_NETWORKS = "/v4.0.0/libpod/networks/json"

log = Log(__name__)


class Translator:
    """A socket at `path`; `async with` serves it."""

    def __init__(self, path: Path, *, upstream: Callable[[], Path]) -> None:
        """`upstream` says where podman's socket is."""
        self.path = path
        self._upstream = upstream
        self._connections: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.path.unlink(missing_ok=True)  # of an engine that was killed
        self._server = await asyncio.start_unix_server(self._take, str(self.path), limit=_MAX_HEAD)
        self.path.chmod(0o600)
        return self

    async def __aexit__(self, *exc: object) -> None:
        self._server.close()
        for task in self._connections:
            task.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)
        self.path.unlink(missing_ok=True)

    def _take(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if len(self._connections) >= _CONNECTIONS:
            writer.transport.abort()
            return
        task = asyncio.get_running_loop().create_task(self._serve(reader, writer))
        self._connections.add(task)
        task.add_done_callback(self._connections.discard)
        task.add_done_callback(lambda _: writer.close())  # also where it was cancelled before it began

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One request. Where podman cannot be reached the connection ends without an answer, as podman's own would."""
        try:
            head = (await reader.readuntil(_HEAD_END)).decode("latin-1")
            listing = _LIST.match(head)
            if listing is not None:
                writer.write(_answer(*await self._list(listing[1], listing[2] or "")))
                await writer.drain()
            else:
                await self._pass(head, reader, writer)
        except (OSError, EOFError, asyncio.LimitOverrunError, BeemeshError) as error:
            log.debug("request_not_passed", why=error)

    async def _pass(self, head: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_unix_connection(str(self._upstream()))
        try:
            back.write(_closing(head).encode("latin-1"))
            sending = asyncio.get_running_loop().create_task(_pump(reader, back))
            try:
                await _pump(there, writer)
            finally:
                sending.cancel()
                await asyncio.gather(sending, return_exceptions=True)
        finally:
            back.transport.abort()

    async def _list(self, target: str, query: str) -> tuple[int, bytes]:
        http = UnixHttp(self._upstream())
        reply = await http.call("GET", f"{target}/json{query}", timeout=_SECONDS)
        if not reply.ok:
            return reply.status, reply.body
        containers: list[dict[str, Any]] = reply.json() or []
        networks = await http.call("GET", _NETWORKS, timeout=_SECONDS)
        ids = {each["name"]: each["id"] for each in (networks.json() if networks.ok else [])}
        asked = (_mounts(http, target, each) for each in containers)
        mounts = dict(zip((each["Id"] for each in containers), await asyncio.gather(*asked), strict=True))
        return reply.status, json.dumps([mended(each, ids, mounts[each["Id"]]) for each in containers]).encode()


def mended(container: Mapping[str, Any], networks: Mapping[str, str], mounts: Sequence[Any]) -> dict[str, Any]:
    """An entry of the list as docker would have it; `networks` are ids by name. Pure."""
    settings = container.get("NetworkSettings") or {}
    joined = {
        name: {**network, "NetworkID": networks.get(network.get("NetworkID", ""), network.get("NetworkID", ""))}
        for name, network in (settings.get("Networks") or {}).items()
    }
    return {**container, "NetworkSettings": {**settings, "Networks": joined}, "Mounts": list(mounts)}


async def _mounts(http: UnixHttp, target: str, container: Mapping[str, Any]) -> Sequence[Any]:
    """Of a container that may go meanwhile."""
    if known := container.get("Mounts"):
        return list(known)
    reply = await http.call("GET", f"{target}/{container['Id']}/json", timeout=_SECONDS)
    return list(reply.json().get("Mounts") or ()) if reply.ok else ()


def _closing(head: str) -> str:
    """The head of a request after which the connection ends, unless it leaves HTTP."""
    first, *fields = head.removesuffix("\r\n\r\n").split("\r\n")
    names = {field.partition(":")[0].strip().lower() for field in fields}
    if "upgrade" not in names:
        kept = (field for field in fields if field.partition(":")[0].strip().lower() != "connection")
        fields = [*kept, "Connection: close"]
    return "\r\n".join([first, *fields]) + "\r\n\r\n"


def _answer(status: int, body: bytes) -> bytes:
    head = f"HTTP/1.1 {status} -\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n"
    return f"{head}Connection: close\r\n\r\n".encode() + body


async def _pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
    """Pass on what comes, and its end."""
    with suppress(OSError):
        while data := await source.read(_CHUNK):
            sink.write(data)
            await sink.drain()
        sink.write_eof()
