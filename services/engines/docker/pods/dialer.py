"""Where probes and hooks reach a container: its pod's address, and docker's exec for commands."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from services.engines.docker.pods.observe import infra_of
from services.engines.docker_api import exec as commands
from services.engines.docker_api.api import Docker
from services.engines.engine import ExecOrder, ExitStatus
from services.engines.probe_handlers import Address
from services.engines.unix_http import Refusal, shorten
from services.errors import FailedPrecondition, Unavailable

_OUTPUT_BYTES = 10 << 10
_NOT_STARTED = {"COMMAND_NOT_FOUND": 127, "COMMAND_NOT_EXECUTABLE": 126}


class DockerDialer:
    """A `Dialer`. Addresses are asked for once and kept until `forget`: each run of a pod may have another."""

    def __init__(self, docker: Docker) -> None:
        self._docker = docker
        self._addresses: dict[str, str] = {}
        """By component."""

    async def dial(self, component_id: str, port: int) -> Address:
        """See `Target.dial`; raises Unavailable where the pod has no address."""
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
            found = await self._docker.inspect(component_id)
            if infra := infra_of(found):
                found = await self._docker.inspect(infra)
        except Refusal as refusal:
            raise Unavailable(f"docker refused: {shorten(refusal.text)}", reason="NOT_REACHED") from refusal
        if (found.get("HostConfig") or {}).get("NetworkMode") == "host":
            return "127.0.0.1"
        networks: dict[str, dict[str, Any]] = (found.get("NetworkSettings") or {}).get("Networks") or {}
        address = next((str(each["IPAddress"]) for each in networks.values() if each.get("IPAddress")), "")
        if not address:
            raise Unavailable("the pod has no address: what holds its network does not run", reason="NO_ADDRESS")
        return address

    async def exec(self, component_id: str, command: Sequence[str], timeout: float) -> tuple[int, str]:
        """See `Target.exec`; what is left when its caller leaves is killed."""
        said, code = bytearray(), 0
        order = ExecOrder(command=tuple(command))
        try:
            async with commands.running(self._docker, "", component_id, order) as session:
                await session.close_stdin()
                async for piece in session.output():
                    if isinstance(piece, ExitStatus):
                        code = piece.exit_code
                    else:
                        said += piece.data[: _OUTPUT_BYTES - len(said)]
        except FailedPrecondition as error:
            if error.reason in _NOT_STARTED:
                return _NOT_STARTED[error.reason], error.message
            raise
        return code, said.decode(errors="replace")
