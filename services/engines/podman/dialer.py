"""Where probes and hooks reach a container: its pod's address, and podman's exec for commands."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from services.engines.podman.api import Podman
from services.engines.podman.http import Refusal, Reply, UnixHttp
from services.engines.probe_handlers import Address
from services.errors import BeemeshError, Unavailable

_LIBPOD = "/v4.0.0/libpod"
_OUTPUT_BYTES = 10 << 10
_FRAME_HEAD = 8
_KILL_SECONDS = 2.0
_NOT_EXECUTABLE, _NOT_FOUND = 126, 127
_OF_CONTAINER = "container:"

_NO_SUCH_COMMAND = re.compile(
    r"executable file not found|no such file or directory|not found in \$?PATH", re.IGNORECASE
)
_NO_EXECUTABLE = re.compile(r"permission denied|exec format error|is a directory", re.IGNORECASE)


class Dialer:
    """A `Target`. Addresses are asked for once and kept until `forget`: each run of a pod may have another."""

    def __init__(self, podman: Podman) -> None:
        self._podman = podman
        self._http = UnixHttp(podman.socket)
        """For commands alone, so that nothing else waits for them."""
        self._addresses: dict[str, str] = {}
        """By component."""

    async def dial(self, component_id: str, port: int) -> Address:
        """See `Target.dial`; raises Unavailable where the pod has no address of its own."""
        known = self._addresses.get(component_id)
        if known is None:
            known = self._addresses[component_id] = await self._address(component_id)
        return known, port

    def forget(self, component_id: str) -> None:
        """It is gone, or runs anew."""
        self._addresses.pop(component_id, None)

    async def _address(self, component_id: str) -> str:
        """The address of its pod's infra container, or ours where that is on the host's network."""
        try:
            found = await self._podman.inspect(component_id)
            if (mode := _network_mode(found)).startswith(_OF_CONTAINER):
                found = await self._podman.inspect(mode.removeprefix(_OF_CONTAINER))
        except Refusal as refusal:
            raise _not_run(refusal) from refusal
        if _network_mode(found) == "host":
            return "127.0.0.1"
        settings: dict[str, Any] = found.get("NetworkSettings") or {}
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
            timeout=self._podman.deadlines.read,
        )
        return str(_accepted(reply).json()["Id"])

    async def _run(self, session: str) -> str:
        """The beginning of what it writes, once it has ended."""
        raw = bytearray()
        start = self._http.upgrade(
            f"{_LIBPOD}/exec/{session}/start", body=b'{"Detach":false,"Tty":false}', timeout=self._podman.deadlines.read
        )
        async with start as stream:
            while data := await stream.read():
                raw += data[: 2 * _OUTPUT_BYTES - len(raw)]
        return _text(bytes(raw))

    async def _inspect(self, session: str) -> dict[str, Any]:
        reply = await self._http.call("GET", f"{_LIBPOD}/exec/{session}/json", timeout=self._podman.deadlines.read)
        found: dict[str, Any] = _accepted(reply).json()
        return found

    async def _kill(self, session: str) -> None:
        """End a command: podman has no call for it, but tells its process; only what is surely that one is killed."""
        with suppress(TimeoutError, Refusal, BeemeshError, OSError, ValueError):
            async with asyncio.timeout(_KILL_SECONDS):
                pid = int((await self._inspect(session)).get("Pid") or 0)
            if pid > 1 and belongs(pid, session):
                os.kill(pid, signal.SIGKILL)


def _network_mode(found: dict[str, Any]) -> str:
    return str((found.get("HostConfig") or {}).get("NetworkMode", ""))


def belongs(pid: int, session: str) -> bool:
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


def _not_run(refusal: Refusal) -> Unavailable:
    return Unavailable(f"podman refused: {refusal.text[:500]}", reason="NOT_REACHED")
