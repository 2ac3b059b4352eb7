"""Reaches into podman's containers: runs a command in one, or tells where its ports are reached from here."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from services.engines.podman.api import Podman
from services.engines.podman.classify import shorten
from services.engines.podman.http import Refusal
from services.engines.podman.objects import Objects
from services.errors import Unavailable

_MAX_OUTPUT = 10 << 10


class PodmanTarget:
    """The `Target` of probes and hooks."""

    def __init__(self, podman: Podman, objects: Objects) -> None:
        self._podman = podman
        self._objects = objects

    async def exec(self, component_id: str, command: Sequence[str], timeout: float) -> tuple[int, str]:
        """See `Target.exec`. Raises Unavailable when podman refuses, as for a container that has ended."""
        try:
            code, output = await self._objects.run_in(component_id, command, timeout=timeout)
        except Refusal as refusal:
            raise Unavailable(f"podman refused: {shorten(refusal.text)}", reason="EXEC_REFUSED") from refusal
        return code, output[:_MAX_OUTPUT].decode(errors="replace")

    async def dial(self, component_id: str, port: int) -> tuple[str, int]:
        """See `Target.dial`: the address of the pod's infra container, or ours on the host's network."""
        try:
            found = await self._podman.inspect(component_id)
            mode = str(found.get("HostConfig", {}).get("NetworkMode", ""))
            if mode.startswith("container:"):
                found = await self._podman.inspect(mode.removeprefix("container:"))
        except Refusal as refusal:
            raise Unavailable(f"podman refused: {shorten(refusal.text)}", reason="EXEC_REFUSED") from refusal
        return _address(found), port


def _address(found: dict[str, Any]) -> str:
    settings = found.get("NetworkSettings") or {}
    addresses = [each.get("IPAddress") for each in (settings.get("Networks") or {}).values()]
    return next((address for address in [*addresses, settings.get("IPAddress")] if address), "127.0.0.1")
