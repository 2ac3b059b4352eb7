"""Where probes reach a container: its pod's address, and podman's exec for commands."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from services.engines.podman.api import Podman
from services.engines.podman.http import Refusal, Reply, UnixHttp
from services.engines.podman.supervision import Sighting
from services.engines.probe_handlers import Address
from services.errors import BeemeshError, FailedPrecondition, Unavailable

_LIBPOD = "/v4.0.0/libpod"
_OUTPUT_BYTES = 10 << 10
_STREAM_BYTES = 1 << 20
"""A command that writes more is read no further; it then ends as its own pipe decides."""
_FRAME_HEAD = 8
_ASK_SECONDS = 5.0
_KILL_SECONDS = 2.0
_NOT_EXECUTABLE, _NOT_FOUND = 126, 127

_NO_SUCH_COMMAND = re.compile(
    r"executable file not found|no such file or directory|not found in \$?PATH", re.IGNORECASE
)
_NO_EXECUTABLE = re.compile(r"permission denied|exec format error|is a directory", re.IGNORECASE)


class Dialer:
    """A `Target` for probes; `find` says what is known of a component, None when it is none of ours."""

    def __init__(self, *, podman: Podman, http: UnixHttp, find: Callable[[str], Sighting | None]) -> None:
        """`http` is for commands alone, so that nothing else waits for them."""
        self._podman = podman
        self._http = http
        self._find = find
        self._addresses: dict[str, tuple[str, str]] = {}
        """By component: the run, and the address of its pod in it."""

    async def dial(self, component_id: str, port: int) -> Address:
        """See `Target.dial`; raises Unavailable where the pod has no address of its own."""
        seen = self._seen(component_id)
        if seen.orders.host_network:
            return "127.0.0.1", port
        known = self._addresses.get(component_id)
        if known is None or known[0] != seen.run:
            known = self._addresses[component_id] = (seen.run, await self._address(seen))
        return known[1], port

    def forget(self, component_id: str) -> None:
        """It is gone."""
        self._addresses.pop(component_id, None)

    async def _address(self, seen: Sighting) -> str:
        try:
            settings = (await self._podman.inspect(seen.infra_id)).get("NetworkSettings") or {}
        except Refusal as refusal:
            raise _not_run(refusal) from refusal
        networks: dict[str, dict[str, Any]] = settings.get("Networks") or {}
        candidates = [settings.get("IPAddress"), *(network.get("IPAddress") for network in networks.values())]
        address = next((str(candidate) for candidate in candidates if candidate), "")
        if not address:
            raise Unavailable(
                "the pod has no address that this node reaches; podman gives rootless pods none", reason="NO_ADDRESS"
            )
        return address

    async def exec(self, component_id: str, command: Sequence[str], timeout: float) -> tuple[int, str]:
        """See `Target.exec`; three requests to podman, and one more to kill what takes too long."""
        self._seen(component_id)
        session = ""
        try:
            async with asyncio.timeout(timeout):
                session = await self._create(component_id, command)
                output = await self._run(session)
                code = int((await self._inspect(session)).get("ExitCode") or 0)
        except Refusal as refusal:
            if _NO_SUCH_COMMAND.search(refusal.text):
                return _NOT_FOUND, refusal.text
            if _NO_EXECUTABLE.search(refusal.text):
                return _NOT_EXECUTABLE, refusal.text
            raise _not_run(refusal) from refusal
        except (TimeoutError, asyncio.CancelledError):
            if session:
                await self._kill(session)
            raise
        return code, output

    async def _create(self, component_id: str, command: Sequence[str]) -> str:
        body = {"AttachStdout": True, "AttachStderr": True, "Cmd": list(command)}
        reply = await self._http.call(
            "POST",
            f"{_LIBPOD}/containers/{component_id}/exec",
            body=json.dumps(body).encode(),
            content_type="application/json",
            timeout=_ASK_SECONDS,
        )
        return str(_accepted(reply).json()["Id"])

    async def _run(self, session: str) -> str:
        """The beginning of what it writes, once it has ended."""
        raw, read = bytearray(), 0
        start = self._http.upgrade(
            f"{_LIBPOD}/exec/{session}/start", body=b'{"Detach":false,"Tty":false}', timeout=_ASK_SECONDS
        )
        async with start as stream:
            while read < _STREAM_BYTES and (data := await stream.read()):
                read += len(data)
                raw += data[: 2 * _OUTPUT_BYTES - len(raw)]
        return _text(bytes(raw))

    async def _inspect(self, session: str) -> dict[str, Any]:
        reply = await self._http.call("GET", f"{_LIBPOD}/exec/{session}/json", timeout=_ASK_SECONDS)
        found: dict[str, Any] = _accepted(reply).json()
        return found

    async def _kill(self, session: str) -> None:
        """End a command: podman has no call for it, but tells its process; only what is surely that one is killed."""
        with suppress(TimeoutError, Refusal, BeemeshError, OSError, ValueError):
            async with asyncio.timeout(_KILL_SECONDS):
                pid = int((await self._inspect(session)).get("Pid") or 0)
            if pid > 1 and _belongs(pid, session):
                os.kill(pid, signal.SIGKILL)

    def _seen(self, component_id: str) -> Sighting:
        seen = self._find(component_id)
        if seen is None or not seen.running:
            raise FailedPrecondition(f"container {component_id[:12]} does not run", reason="CONTAINER_NOT_RUNNING")
        return seen


def _belongs(pid: int, session: str) -> bool:
    """Whether this process was started by the conmon of this session: a pid may be of another namespace, or reused."""
    parent = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1]
    return session.encode() in Path(f"/proc/{parent}/cmdline").read_bytes()


def _text(framed: bytes) -> str:
    """The payload of podman's frames (stream, three zeros, length), both streams together."""
    payload, at = bytearray(), 0
    while at + _FRAME_HEAD <= len(framed) and len(payload) < _OUTPUT_BYTES:
        size = int.from_bytes(framed[at + 4 : at + _FRAME_HEAD])
        payload += framed[at + _FRAME_HEAD : at + _FRAME_HEAD + size]
        at += _FRAME_HEAD + size
    return payload[:_OUTPUT_BYTES].decode(errors="replace")


def _accepted(reply: Reply) -> Reply:
    if not reply.ok:
        raise Refusal(reply.status, reply.error_text)
    return reply


def _not_run(refusal: Refusal) -> FailedPrecondition:
    return FailedPrecondition(f"podman refused: {refusal.text[:500]}", reason="PROBE_NOT_RUN")
