"""The calls about single containers: commands in them, their use, signals, starts; answers as podman gives them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any
from urllib.parse import quote, urlencode

from services.engines.podman.http import Duplex, Refusal, Reply, UnixHttp

_LIBPOD = "/v4.0.0/libpod"
_JSON = "application/json"


class Containers:
    """Calls raise Unavailable, DeadlineExceeded, or Refusal with podman's status and text; times are in seconds."""

    def __init__(self, http: UnixHttp, *, read: float = 10.0, change: float = 60.0) -> None:
        """`read` and `change` bound the wait for an answer."""
        self._http = http
        self._read = read
        self._change = change

    async def create_exec(self, container: str, command: Sequence[str], *, tty: bool) -> str:
        """Prepare a command; its id. The output of a session that was made must be read for it to start."""
        asked = {"AttachStdin": True, "AttachStdout": True, "AttachStderr": True, "Tty": tty, "Cmd": list(command)}
        reply = await self._post(f"/containers/{quote(container)}/exec", body=asked)
        return str(reply.json()["Id"])

    def start_exec(self, session: str, *, tty: bool) -> AbstractAsyncContextManager[Duplex]:
        """Run it; what it reads and writes. Leaving the block closes the stream and ends nothing."""
        asked = json.dumps({"Detach": False, "Tty": tty}).encode()
        return self._http.upgrade(f"{_LIBPOD}/exec/{quote(session)}/start", timeout=self._change, body=asked)

    async def resize_exec(self, session: str, *, rows: int, columns: int) -> None:
        """The size of its terminal; a Refusal when it does not run."""
        await self._post(f"/exec/{quote(session)}/resize", {"h": str(rows), "w": str(columns)})

    async def inspect_exec(self, session: str) -> dict[str, Any]:
        """`Running`, `Pid` (the host's; 0 when it does not run) and `ExitCode`."""
        found: dict[str, Any] = (await self._get(f"/exec/{quote(session)}/json")).json()
        return found

    async def processes(self, container: str) -> list[tuple[int, int, int]]:
        """The host's pid, the container's pid and process group of each process."""
        reply = await self._get(f"/containers/{quote(container)}/top", {"stream": "false", "ps_args": "hpid,pid,pgid"})
        rows = (tuple(row) for row in reply.json()["Processes"])
        # A process that ends while podman looks has question marks.
        return [(int(row[0]), int(row[1]), int(row[2])) for row in rows if all(word.isdecimal() for word in row)]

    async def stats(self, containers: Sequence[str]) -> list[dict[str, Any]]:
        """The counters of containers, all of which must be there."""
        query = urlencode([("stream", "false"), *(("containers", container) for container in containers)])
        reply = (await self._get(f"/containers/stats?{query}")).json()
        if reply.get("Error"):
            raise Refusal(500, str(reply["Error"]))
        found: list[dict[str, Any]] = reply.get("Stats") or []
        return found

    async def start(self, container: str) -> None:
        """Start it, its pod's infra container too where needed; one that runs is left alone."""
        reply = await self._call("POST", f"/containers/{quote(container)}/start", {}, timeout=self._change)
        if reply.status != 304:
            _accepted(reply)

    async def signal(self, container: str, name: str) -> bool:
        """Send a signal to its first process; whether there was one."""
        target = f"/containers/{quote(container)}/kill"
        reply = await self._call("POST", target, {"signal": name}, timeout=self._change)
        if reply.status in (404, 409):  # it is gone, or does not run
            return False
        _accepted(reply)
        return True

    async def _get(self, target: str, query: Mapping[str, str] | None = None) -> Reply:
        return _accepted(await self._call("GET", target, query or {}, timeout=self._read))

    async def _post(
        self, target: str, query: Mapping[str, str] | None = None, *, body: Mapping[str, object] | None = None
    ) -> Reply:
        sent = b"" if body is None else json.dumps(body).encode()
        return _accepted(await self._call("POST", target, query or {}, body=sent, timeout=self._read))

    async def _call(
        self, method: str, target: str, query: Mapping[str, str], *, timeout: float, body: bytes = b""
    ) -> Reply:
        kind = _JSON if body else ""
        return await self._http.call(
            method, _LIBPOD + target, query=query, body=body, content_type=kind, timeout=timeout
        )


def _accepted(reply: Reply) -> Reply:
    if not reply.ok:
        raise Refusal(reply.status, reply.error_text)
    return reply
